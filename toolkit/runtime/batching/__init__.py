"""What :class:`toolkit.runtime.batcher.Batcher` is made of; applications need only that."""
