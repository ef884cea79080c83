"""What a person does about dead letters: retry them or discard them."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database import queue
from spheroseg.database.audit import MAX_NAMED, record
from spheroseg.database.failures import FailureFilter, FailureRecord, settle_failures
from spheroseg.messages import ROUTES, TASK_KEY, Message
from spheroseg.queueing.submit import retry


async def retry_dead_letters(conn: AsyncConnection, letters: Sequence[FailureRecord]) -> int:
    """Queue the tasks again with a fresh set of tries, and unreadable messages as they were. Return their number."""
    queued = await retry(conn, [letter.task_id for letter in letters if letter.task_id])
    unreadable = [letter for letter in letters if letter.task_id is None and letter.body is not None]
    messages = {letter.id: _replay(letter) for letter in unreadable if letter.id is not None}
    replayed = await settle_failures(conn, messages) if messages else set()
    await queue.enqueue(conn, [message for id_, message in messages.items() if id_ in replayed])
    return len(queued) + len(replayed)


async def discard_dead_letters(conn: AsyncConnection, letters: Sequence[FailureRecord]) -> int:
    """Remove dead letters from the list. Their tasks stay failed, and the failures stay on record.

    Return the number of discarded ones. Raises SchemaUnusable at revision 009, where this cannot be recorded.
    """
    return len(await settle_failures(conn, [letter.id for letter in letters if letter.id is not None]))


async def record_change(
    conn: AsyncConnection,
    actor: str,
    action: str,
    letters: Sequence[FailureRecord],
    wanted: FailureFilter,
    *,
    everything: bool,
) -> None:
    """Write into the audit trail that `actor` retried or discarded `letters`, and how they were selected."""
    selected_by = {name: str(value) for name, value in vars(wanted).items() if value is not None and name != "ids"}
    ids = [letter.id for letter in letters[:MAX_NAMED]]
    await record(conn, actor, action, count=len(letters), ids=ids, filter=selected_by, all=everything)


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
