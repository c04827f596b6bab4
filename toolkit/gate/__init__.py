"""The gate that an upgrade has to pass: what a new engine does otherwise than the old one, against limits."""
