"""`spheroseg task`: show, retry or cancel one task."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape

from spheroseg.cli.output import Json, actor, print_json, print_rows
from spheroseg.cli.with_resources import with_resources
from spheroseg.database.audit import record
from spheroseg.database.engine import reading
from spheroseg.database.failures import read_failures
from spheroseg.database.task_details import read_task
from spheroseg.errors import SpherosegError
from spheroseg.queueing.submit import cancel, retry
from spheroseg.resources import Resources

SHOWN = ("image", "state", "attempt", "retries", "lost_count", "worker", "reason", "error", "started_at")
FAILURE_COLUMNS = ("attempt", "cause", "reason", "error", "worker", "failed_at", "next_attempt_at", "superseded")

task_app = typer.Typer(help="Show, retry or cancel one task.", no_args_is_help=True)

TaskId = Annotated[UUID, typer.Argument(metavar="TASK", help="Id of the task.")]


@task_app.command("show")
def task_show(task_id: TaskId, as_json: Json = False) -> None:
    """Show the state of a task and all its failed attempts."""

    async def show(resources: Resources) -> dict[str, Any]:
        async with reading(resources.engine) as conn:
            task = await read_task(conn, task_id)
            failures = await read_failures(conn, task_id)
        return {**task._asdict(), "failures": [failure._asdict() for failure in failures]}

    details = with_resources(show)
    if as_json:
        print_json(details)
        return
    console = Console()
    for name in SHOWN:
        if details[name] is not None:
            console.print(f"{name.replace('_', ' '):12} {escape(str(details[name]))}", highlight=False)
    print_rows(details["failures"], FAILURE_COLUMNS, as_json=False, if_empty="There are no failed attempts.")


@task_app.command("retry")
def task_retry(task_id: TaskId) -> None:
    """Queue a failed task again, with a fresh set of attempts."""
    _change(task_id, "task.retry", retry, "queued again", "only a failed task can be tried again")


@task_app.command("cancel")
def task_cancel(task_id: TaskId) -> None:
    """Cancel an unfinished task. The worker that is processing it stops."""
    _change(task_id, "task.cancel", cancel, "cancelled", "only a task that is not finished can be cancelled")


def _change(
    task_id: UUID, action: str, apply: Callable[..., Awaitable[list[UUID]]], done: str, otherwise: str
) -> None:
    async def change(resources: Resources) -> list[UUID]:
        async with resources.engine.begin() as conn:
            changed = await apply(conn, [task_id])
            if changed:
                await record(conn, actor(), action, task_id=str(task_id))
            return changed

    if not with_resources(change):
        raise SpherosegError(f"not changed: {otherwise}; `spheroseg task show {task_id}` shows its state")
    print(f"{task_id} {done}")
