"""The protocol over gRPC: a server in front of the data plane."""
