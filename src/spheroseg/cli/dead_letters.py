"""`spheroseg dlq`: list, show, retry or discard dead letters."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from spheroseg.cli.output import DryRun, Json, actor, confirm, print_json, print_rows
from spheroseg.cli.with_resources import with_resources
from spheroseg.database.dead_letters import FailureFilter, FailureRecord, list_dead_letters
from spheroseg.database.engine import reading
from spheroseg.errors import SpherosegError
from spheroseg.queueing.dead_letters import DISCARD, RETRY, DeadLetterAction, change_dead_letters
from spheroseg.resources import Resources

COLUMNS = ("id", "image", "attempt", "reason", "error", "worker", "failed_at")

dlq_app = typer.Typer(
    help="List, retry or discard dead letters: tasks that failed permanently, and unreadable messages.",
    no_args_is_help=True,
)

Reason = Annotated[str | None, typer.Option("--reason", help="Only those with this reason, such as timeout.")]
Worker = Annotated[str | None, typer.Option("--worker", help="Only those of this worker.")]
ImageName = Annotated[str | None, typer.Option("--image", help="Only images whose name contains this text.")]
Since = Annotated[datetime | None, typer.Option("--since", help="Only failures since this time.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]


def _filter(
    number: int | None, reason: str | None, worker: str | None, image: str | None, since: datetime | None
) -> FailureFilter:
    ids = None if number is None else (number,)
    return FailureFilter(
        ids=ids, reason=reason, worker=worker, image=image, since=since.astimezone() if since else None
    )


@dlq_app.command("list")
def dlq_list(
    reason: Reason = None,
    worker: Worker = None,
    image: ImageName = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """List the tasks that failed permanently and the unreadable messages, newest first."""
    letters = _read(_filter(None, reason, worker, image, since))
    rows = [{name: getattr(letter, name) for name in (*COLUMNS, "task_id")} for letter in letters]
    print_rows(rows, COLUMNS, as_json=as_json, if_empty="There are no dead letters.")


@dlq_app.command("show")
def dlq_show(number: Annotated[int, typer.Argument(metavar="ID", help="Id of `spheroseg dlq list`.")]) -> None:
    """Print everything that is known about one dead letter as JSON."""
    letters = _read(FailureFilter(ids=(number,)))
    if not letters:
        raise SpherosegError(f"there is no dead letter {number}: see `spheroseg dlq list`")
    print_json(letters[0]._asdict())


def _read(selection: FailureFilter) -> Sequence[FailureRecord]:
    async def read(resources: Resources) -> Sequence[FailureRecord]:
        async with reading(resources.engine) as conn:
            return await list_dead_letters(conn, selection)

    return with_resources(read)


def _add_change(name: str, description: str, action: DeadLetterAction, done: str, question: str = "") -> None:
    """Add a command that changes the selected dead letters. If it has a `question`, it asks before."""

    def command(
        number: Annotated[
            int | None, typer.Argument(metavar="ID", help="One dead letter; or select some with the options.")
        ] = None,
        reason: Reason = None,
        worker: Worker = None,
        image: ImageName = None,
        since: Since = None,
        everything: All = False,
        dry_run: DryRun = False,
        yes: Annotated[
            bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.", hidden=not question)
        ] = not question,
    ) -> None:
        selection = _filter(number, reason, worker, image, since)
        if selection == FailureFilter() and not everything:
            raise typer.BadParameter(
                "name one by its id, select some with --reason, --worker, --image or --since, or use --all"
            )
        if not dry_run:
            confirm(question, yes=yes)

        async def apply(resources: Resources) -> int:
            async with resources.engine.begin() as conn:
                changed = await change_dead_letters(
                    conn, action, selection, actor(), is_all=everything, is_dry_run=dry_run
                )
                return changed.count

        count = with_resources(apply)
        print(f"{count} would be {done}" if dry_run else f"{count} {done}")

    dlq_app.command(name, help=description)(command)


_add_change("retry", "Queue them again, with a fresh set of attempts.", RETRY, "queued again")
_add_change(
    "discard",
    "Remove them from the list. Their tasks stay failed, and the failures stay on record.",
    DISCARD,
    "discarded",
    "Discard these dead letters?",
)
