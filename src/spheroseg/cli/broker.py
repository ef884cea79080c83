"""`spheroseg broker`: declare, check and print what must exist at RabbitMQ."""

import asyncio
import json
import os
import sys
from typing import Annotated

import typer

from spheroseg.broker.credentials import with_user
from spheroseg.broker.management import Management
from spheroseg.broker.topology import definitions
from spheroseg.cli.output import Json, print_rows
from spheroseg.errors import BrokerAway, SpherosegError
from spheroseg.resources import rabbit_broker
from spheroseg.settings import read_settings

broker_app = typer.Typer(
    help="Declare, check or print the exchanges, queues and policies at RabbitMQ.", no_args_is_help=True
)


@broker_app.command("declare")
def broker_declare() -> None:
    """Declare exchanges, queues and bindings. Policies need RABBITMQ_MANAGEMENT_URL."""
    settings = read_settings()

    async def declare() -> None:
        rabbit = rabbit_broker(settings)
        try:
            # Every new connection declares them.
            await rabbit.open()
        finally:
            await rabbit.close()
        print(f"exchanges, queues and bindings are declared (queue type {settings.rabbitmq_queue_type})")
        if not settings.rabbitmq_management_url:
            print("policies are not set: set RABBITMQ_MANAGEMENT_URL to set them too")
            return
        management = Management(settings.rabbitmq_management_url, settings.rabbitmq_url)
        try:
            await management.set_policies(settings.rabbitmq_queue_type)
        finally:
            await management.close()
        print("policies are set")

    asyncio.run(declare())


@broker_app.command("check")
def broker_check(as_json: Json = False) -> None:
    """Compare what exists at RabbitMQ with what should. Exit code 1 if they differ."""
    settings = read_settings()
    if not settings.rabbitmq_management_url:
        raise BrokerAway("the check needs the management API: set RABBITMQ_MANAGEMENT_URL")

    async def check() -> list[dict[str, str]]:
        management = Management(settings.rabbitmq_management_url, settings.rabbitmq_url)
        try:
            differences = await management.check(settings.rabbitmq_queue_type)
        finally:
            await management.close()
        return [{"what": difference.what, "what_to_do": difference.advice} for difference in differences]

    rows = asyncio.run(check())
    print_rows(rows, ["what", "what_to_do"], as_json=as_json, if_empty="RabbitMQ is as it should be.")
    if rows:
        raise typer.Exit(1)


@broker_app.command("definitions")
def broker_definitions(
    vhost: Annotated[str, typer.Option(help="Virtual host of the definitions.")] = "spheroseg",
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Add this user. Its password comes from RABBITMQ_PASSWORD or is asked for."
        ),
    ] = None,
) -> None:
    """Print the topology as a RabbitMQ definitions file. It holds the password of a user as a salted hash."""
    content = definitions(read_settings().rabbitmq_queue_type, vhost)
    if user is not None:
        content = with_user(content, user, _read_password(user))
    print(json.dumps(content, indent=2))


def _read_password(user: str) -> str:
    # Not an option, because every user of the machine can read command lines.
    password = os.environ.get("RABBITMQ_PASSWORD", "")
    if not password and sys.stdin.isatty():
        password = typer.prompt(f"Password of {user}", hide_input=True, confirmation_prompt=True, err=True)
    if not password:
        raise SpherosegError(f"no password for {user}: set RABBITMQ_PASSWORD, or run this on a terminal to be asked")
    return password
