"""Keeps unreadable messages at revision 009, which has no table of failures, in a queue of their own."""

from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.revision_010 import keeps_failures
from spheroseg.database.schema import segmentation_queue as q
from spheroseg.messages import Message, Queue

UNREADABLE = "segmentation.unreadable"


async def quarantine(conn: AsyncConnection, message: Message) -> None:
    """Keep a message that nobody can read, for revision 009. At revision 010 its failure keeps the message."""
    await conn.execute(
        insert(q).values(
            queue=UNREADABLE,
            message_id=message.id[:100],
            routing_key=message.routing_key[:50],
            body=message.body,
            content_encoding=message.content_encoding,
            headers=dict(message.headers),
            task_id=None,
            user_id=None,
            priority=0,
            turn=0,
            ready=True,
            visible_at=DatabaseTime(),
            enqueued_at=DatabaseTime(),
        )
    )


async def release_quarantine(conn: AsyncConnection) -> int:
    """Move the kept messages to the dead letter queue. Return their number. Does nothing at revision 009."""
    if not keeps_failures(conn):
        return 0
    result = await conn.execute(update(q).where(q.c.queue == UNREADABLE).values(queue=Queue.DEAD_LETTERS))
    return result.rowcount
