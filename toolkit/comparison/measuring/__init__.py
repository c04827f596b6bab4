"""Artifacts measured against each other in one run."""
