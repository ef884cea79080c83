"""Settlement: reports the outcomes of the deliveries of a task batch, and settles them in the right order."""

from collections.abc import Sequence

from spheroseg.broker import Consumer, Delivery
from spheroseg.errors import BrokerAway
from spheroseg.messages import Message
from spheroseg.worker.reports import Reporter


class Settlement:
    """Settles each delivery as soon as its outcome is known, but the first of several last.

    The first one counts against the prefetch: once it is settled, RabbitMQ sends the next message, which would have
    to wait here until the rest of the batch is done.
    """

    def __init__(self, consumer: Consumer, deliveries: Sequence[Delivery], reporter: Reporter) -> None:
        self._consumer = consumer
        self._reporter = reporter
        self._last = deliveries[0] if len(deliveries) > 1 else None
        # Whether to reject the last delivery; None until its outcome is known.
        self._reject_last: bool | None = None

    async def settle(self, delivery: Delivery, *, reject: bool, report: Message | None = None) -> None:
        """Publish `report`, if there is one, and reject or acknowledge `delivery`."""
        if delivery is self._last:
            if report:
                await self._reporter.publish([report])
            self._reject_last = reject
        elif report:
            await self._reporter.report_and_settle(self._consumer, delivery, report, reject=reject)
        else:
            await self._settle_reported(delivery, reject)

    async def settle_last(self) -> None:
        """Settle the first of several deliveries, if its outcome is known."""
        if self._last and self._reject_last is not None:
            await self._settle_reported(self._last, self._reject_last)

    async def _settle_reported(self, delivery: Delivery, reject: bool) -> None:
        # If it stays unsettled it is delivered again, and its second report is recognised as a duplicate.
        try:
            await (self._consumer.reject if reject else self._consumer.ack)([delivery])
        except BrokerAway as error:
            self._reporter.log_for(delivery.message).warning("delivery not settled", error=str(error))
