"""Wakeups: consumers of the database queue learn of new messages without waiting for their next poll."""

import asyncio
import time
from collections import defaultdict


class Wakeups:
    """One event for each queue, shared by the table broker and its consumers in this process.

    poll: seconds that must pass between two checks for messages whose delay or lease has ended.
    """

    def __init__(self, poll: float) -> None:
        self._poll = poll
        self._events: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._last_check = -float("inf")

    def event(self, queue: str) -> asyncio.Event:
        """Return the event that is set when messages have been put into `queue`."""
        return self._events[queue]

    def wake(self, *queues: str) -> None:
        """Tell the consumers of `queues` that there are new messages."""
        for queue in queues:
            self._events[queue].set()

    def start_check_for_due(self) -> bool:
        """Return whether it is time to check for due messages. If so, the caller must check now."""
        now = time.monotonic()
        is_time = now - self._last_check >= self._poll
        if is_time:
            self._last_check = now
        return is_time
