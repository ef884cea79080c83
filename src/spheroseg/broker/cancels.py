"""The cancelled tasks that a worker process knows of."""

from collections import OrderedDict
from uuid import UUID

from spheroseg.broker import Delivery

MAX_TASKS_REMEMBERED = 100_000


class Cancels:
    """Remembers which tasks were cancelled, and revokes the deliveries that this process holds for them.

    A cancel can arrive before or after the message of its task. Both are handled: `cancel` revokes a delivery that is
    already held, `hold` revokes one whose task was cancelled before.
    """

    def __init__(self) -> None:
        self._cancelled: OrderedDict[UUID, None] = OrderedDict()
        self._held: dict[UUID, Delivery] = {}

    def cancel(self, task_id: UUID) -> None:
        """Revoke the delivery of the task if this process holds it, and any that comes later."""
        self._cancelled[task_id] = None
        while len(self._cancelled) > MAX_TASKS_REMEMBERED:
            self._cancelled.popitem(last=False)
        if held := self._held.get(task_id):
            held.revoked.set()

    def hold(self, delivery: Delivery) -> None:
        """Note that this process works on `delivery`; revoke it if its task was cancelled."""
        task_id = delivery.message.task_id
        if task_id is None:
            return
        if task_id in self._cancelled:
            delivery.revoked.set()
        self._held[task_id] = delivery

    def release(self, delivery: Delivery) -> None:
        """Forget a delivery that is being settled."""
        if delivery.message.task_id is not None:
            self._held.pop(delivery.message.task_id, None)
