"""The protocol over HTTP: an ASGI application in front of the data plane."""
