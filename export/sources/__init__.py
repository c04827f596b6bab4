"""Networks that aren't in the registry: people's own code, exported programs, TorchScript, other libraries' zoos."""
