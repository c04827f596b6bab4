"""What artifacts got right, counted batch by batch."""
