"""Ctrl-C and SIGTERM, for whatever runs until it is stopped."""

import asyncio
import os
import signal

from rich.console import Console


def stop_on_signal(stopping: asyncio.Event, console: Console | None = None) -> list[signal.Signals]:
    """The first SIGINT or SIGTERM sets `stopping`; the second ends the process. The list tells what came."""
    came: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if came:
            # Nothing is lost: the children die with us, and what they had is done again.
            if console:
                console.show_cursor(True)
            os._exit(130)
        came.append(number)
        stopping.set()
        if console:
            console.print("Stopping: the running images are finished first. Once more to stop at once.")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return came
