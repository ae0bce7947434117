"""Real servers on this machine's loopback, for tests and for the curious: `make services` and `make services-stop`.

Each server has a file of its own that holds a `Service`; `__main__` lists them.
"""
