"""From the master graph to an engine: what `build-engine` is made of."""
