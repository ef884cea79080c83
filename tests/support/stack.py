"""Services of the Compose files, run without containers, on one database, one RabbitMQ and one shared folder."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.projects import NewImage
from spheroseg.run.inputs import find_inputs
from spheroseg.segmentation.model import DEFAULT_MODEL

from ..conftest import Postgres, empty_database, eventually
from .compose import ROOT, Instance
from .lab import read_task, submit_images
from .rabbitmq import RabbitNode

EXAMPLE = ROOT / "examples" / "spheroids" / "image_08.png"


class Stack:
    """Starts instances of the services; all end with it."""

    def __init__(self, engine: AsyncEngine, elsewhere: dict[str, str], folder: Path) -> None:
        self.engine = engine
        self.elsewhere = elsewhere
        self.folder = folder
        self.instances: list[Instance] = []

    def start(
        self, name: str, command: Sequence[str] | None = None, *, message_queue: bool = False, **settings: str
    ) -> Instance:
        """`message_queue`: as if switched on in the settings file before the start; `settings`: more lines of it."""
        folder = self.folder / f"{name}-{len(self.instances)}"
        folder.mkdir()
        instance = Instance(name, folder, self.elsewhere, command)
        switch(instance, message_queue)
        with instance.settings_file.open("a") as file:
            file.writelines(f"{setting.upper()}={value}\n" for setting, value in settings.items())
        self.instances.append(instance)
        instance.start()
        return instance

    async def completes_a_task(self) -> None:
        """Submit a real image and wait for its result."""
        (item,) = find_inputs([EXAMPLE]).inputs
        images = [NewImage(item.name, item.storage_key, item.sha256)]
        (task_id,) = (await submit_images(self.engine, images, model=DEFAULT_MODEL)).task_ids

        async def is_completed() -> bool:
            return bool((await read_task(self.engine, task_id)).state == "completed")

        said = "\n".join(f"--- {instance.name}\n{instance.tail()}" for instance in self.instances)
        await eventually(is_completed, within=60, what=said)


def switch(instance: Instance, message_queue: bool) -> None:
    """Edit the settings file as the manual says."""
    line = f"ENABLE_MESSAGE_QUEUE={json.dumps(message_queue)}"
    switched, count = re.subn(
        "^ENABLE_MESSAGE_QUEUE=.*", line, instance.settings_file.read_text(), flags=re.MULTILINE
    )
    assert count == 1
    instance.settings_file.write_text(switched)


@asynccontextmanager
async def stack_on(postgres: Postgres, rabbit: RabbitNode | None, folder: Path) -> AsyncIterator[Stack]:
    elsewhere = {
        "@db:5432/spheroseg": f"@127.0.0.1:{postgres.port}/postgres",
        "/data": str(folder / "data"),
    }
    if rabbit:
        elsewhere |= {
            "@rabbitmq:5672": f"@127.0.0.1:{rabbit.port}",
            "@rabbitmq:15672": f"@127.0.0.1:{rabbit.management_port}",
        }
    async with empty_database(postgres.url) as engine:
        stack = Stack(engine, elsewhere, folder)
        try:
            yield stack
        finally:
            for instance in stack.instances:
                instance.kill()
