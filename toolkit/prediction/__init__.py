"""Any number of pictures classified into one file, from where an earlier run stopped."""
