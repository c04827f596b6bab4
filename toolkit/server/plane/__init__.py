"""What stands behind every front: the models that are served, and the answers to what is asked of them."""
