"""The Open Inference Protocol, version 2: messages, and their forms in JSON, binary and protobuf.

Pure functions of bytes and arrays: nothing here opens a socket, runs an engine or waits.
"""
