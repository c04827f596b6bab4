"""Engines as other servers want them."""
