"""What a person does about dead letters: retry them or discard them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import queue
from spheroseg.database.audit import MAX_NAMED, record
from spheroseg.database.dead_letters import FailureFilter, FailureRecord, list_dead_letters, settle_failures
from spheroseg.messages import ROUTES, TASK_KEY, Message
from spheroseg.queueing.submit import retry

MAX_DEAD_LETTERS = 1_000_000


async def _retry(conn: AsyncConnection, letters: Sequence[FailureRecord]) -> int:
    queued = await retry(conn, [letter.task_id for letter in letters if letter.task_id])
    unreadable = [letter for letter in letters if letter.task_id is None and letter.body is not None]
    messages = {letter.id: _replay(letter) for letter in unreadable if letter.id is not None}
    replayed = await settle_failures(conn, messages) if messages else set()
    await queue.enqueue(conn, [message for id_, message in messages.items() if id_ in replayed])
    return len(queued) + len(replayed)


async def _discard(conn: AsyncConnection, letters: Sequence[FailureRecord]) -> int:
    return len(await settle_failures(conn, [letter.id for letter in letters if letter.id is not None]))


@dataclass(frozen=True)
class DeadLetterAction:
    """name: in the audit trail. apply: changes the letters and returns the number of changed ones."""

    name: str
    apply: Callable[[AsyncConnection, Sequence[FailureRecord]], Awaitable[int]]


# Queue the tasks again with a fresh set of tries, and unreadable messages as they were.
RETRY = DeadLetterAction("dead_letters.retry", _retry)
# Remove dead letters from the list. Their tasks stay failed, and the failures stay on record. Needs revision 010.
DISCARD = DeadLetterAction("dead_letters.discard", _discard)


@dataclass(frozen=True)
class ChangedLetters:
    """count: the number of changed dead letters. ids: the first `MAX_NAMED` ids of the selected ones."""

    count: int
    ids: list[int]


async def change_dead_letters(
    conn: AsyncConnection,
    action: DeadLetterAction,
    wanted: FailureFilter,
    actor: str,
    *,
    is_all: bool,
    is_dry_run: bool = False,
) -> ChangedLetters:
    """Apply `action` to the dead letters that `wanted` selects, and record in the audit trail that `actor` did so.

    is_all: whether `actor` asked for all dead letters, for the audit trail. is_dry_run: only count them.
    Raises SchemaUnusable at revision 009 if `action` is DISCARD or if `wanted` names ids.
    """
    letters = await list_dead_letters(conn, wanted, limit=MAX_DEAD_LETTERS)
    count = len(letters)
    if letters and not is_dry_run:
        count = await action.apply(conn, letters)
        selected_by = {name: str(value) for name, value in vars(wanted).items() if value is not None}
        selected_by.pop("ids", None)
        named = [letter.id for letter in letters[:MAX_NAMED]]
        await record(conn, actor, action.name, count=len(letters), ids=named, filter=selected_by, all=is_all)
    return ChangedLetters(count, [letter.id for letter in letters[:MAX_NAMED] if letter.id is not None])


def _replay(letter: FailureRecord) -> Message:
    """Return the unreadable message of `letter` for the queue that it came from."""
    deaths = (letter.headers or {}).get("x-death") or [{}]
    keys = [key for key in deaths[0].get("routing-keys", []) if key in ROUTES]
    return Message(
        id=f"replay-{letter.id}",
        routing_key=keys[0] if keys else TASK_KEY,
        body=bytes(letter.body or b""),
        content_encoding=letter.content_encoding,
    )
