"""Stop on Ctrl-C and SIGTERM."""

import asyncio
import os
import signal

from rich.console import Console


def stop_on_signal(stopping: asyncio.Event, console: Console | None = None) -> list[signal.Signals]:
    """Set `stopping` on the first SIGINT or SIGTERM, and end the process on the second one.

    Return a list to which the first signal is appended when it arrives.
    """
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if received:
            # Nothing is lost: the child processes end with this one, and their images are segmented again later.
            if console:
                console.show_cursor(True)
            os._exit(130)
        received.append(number)
        stopping.set()
        if console:
            console.print("Stopping after the images in progress. Press Ctrl-C again to stop at once.")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return received
