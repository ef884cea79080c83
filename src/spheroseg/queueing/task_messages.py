"""The messages that the backend sends to workers: one task each, or one cancel."""

from uuid import UUID

from spheroseg.database.tasks import MessageFacts
from spheroseg.messages import CANCELLED_KEY, Message, TaskNew


def task_message(facts: MessageFacts, delay: float = 0.0) -> Message:
    """Return the message that asks for an attempt, `delay` seconds from now."""
    new = TaskNew(
        task_id=facts.task_id,
        attempt=facts.attempt,
        image_key=facts.image_key,
        image_sha256=facts.image_sha256,
        page=facts.page,
        model=facts.model,
        model_sha256=facts.model_sha256,
        parameters=dict(facts.parameters),
        pixel_size_um=facts.pixel_size_um,
    )
    return new.message(priority=facts.priority, delay=delay, user_id=facts.user_id)


def cancel_message(task_id: UUID) -> Message:
    """Return the message that tells every worker to stop working on a task."""
    return Message(id=f"{task_id}:cancelled", routing_key=CANCELLED_KEY, body=str(task_id).encode())
