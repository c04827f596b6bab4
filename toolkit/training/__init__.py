"""What stands around a training loop: pictures for it, what it begins from, its curves and its log."""
