"""Scaling out on Ray Serve: the data plane lives in its replicas, and the fronts ask them instead of their own.

``replica`` is what runs on each GPU, ``remote`` the data plane that a front sees, ``application`` both as a Serve
application, and ``cluster`` a cluster to run them on.
"""
