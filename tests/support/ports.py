"""Ports for the servers of the tests."""

import contextlib
import random
import socket


def free_port() -> int:
    """Return a random free port below the range from which the kernel gives ports to clients.

    A client that keeps connecting to a port of that range while its server is down may be given this very port, and
    so connect to itself. Random, because others may run tests on the same machine.
    """
    while True:
        port = random.SystemRandom().randint(15000, 31999)  # independent of the seed of a test
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
