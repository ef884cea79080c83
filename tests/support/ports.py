"""Ports for servers of the tests."""

import contextlib
import random
import socket


def free_port() -> int:
    """A free port below those that the kernel hands to clients.

    A client that keeps trying a port from that range while its server is down may be given the very port that it is
    calling, and so connect to itself. At random, for others who run tests on this machine.
    """
    while True:
        port = random.SystemRandom().randint(15000, 31999)  # not what a test's seed makes it
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
