"""The inference server: the Open Inference Protocol over HTTP and gRPC, and a page for people.

``protocol`` is what messages mean, and knows no transport; ``plane`` is what answers them, and knows no bytes;
``http``, ``grpc`` and ``ray`` carry them.
"""
