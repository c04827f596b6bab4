"""What was measured: kept, read back and put side by side."""
