"""Run one question with the database, and RabbitMQ if it is switched on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from spheroseg.resources import Resources, open_resources
from spheroseg.settings import read_settings

T = TypeVar("T")


def with_resources(use: Callable[[Resources], Awaitable[T]]) -> T:
    """Open the resources that the settings name, call `use` with them, and close them."""
    settings = read_settings()

    async def run() -> T:
        async with open_resources(settings) as resources:
            return await use(resources)

    return asyncio.run(run())
