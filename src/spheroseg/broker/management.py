"""RabbitMQ's management API: what AMQP cannot tell, and policies."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from spheroseg.broker.topology import EXCHANGES, QUEUES, arguments, definitions, policy
from spheroseg.errors import BrokerAway
from spheroseg.messages import Queue, QueueType

if TYPE_CHECKING:  # httpx belongs to an extra
    import httpx

DECLARE = "run `spheroseg broker declare`"


@dataclass(frozen=True)
class Finding:
    """Something at the broker that is not as declared, and the step that mends it."""

    what: str
    step: str


class Management:
    """The API at `url` (http://USER:PASSWORD@HOST:PORT), for the virtual host of the AMQP URL."""

    def __init__(self, url: str, rabbitmq_url: str, patience: float = 5.0) -> None:
        import httpx

        self._client = httpx.AsyncClient(base_url=url, timeout=patience)
        self.vhost = unquote(urlsplit(rabbitmq_url).path[1:]) or "/"

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, *path: str, body: Any = None, **params: Any) -> Any:
        where = "/api/" + "/".join(quote(part, safe="") for part in path)
        answer = await self._answer(method, where, body, params)
        if answer.status_code == 404:
            return None
        if answer.status_code == 401:
            raise BrokerAway("the management API refuses this user: check RABBITMQ_MANAGEMENT_URL")
        if answer.is_error:
            raise BrokerAway(f"the management API answers {answer.status_code}: {answer.text[:200]}")
        return answer.json() if answer.content else None

    async def _answer(self, method: str, where: str, body: Any, params: dict[str, Any]) -> "httpx.Response":
        import httpx

        try:
            return await self._client.request(method, where, json=body, params=params)
        except httpx.HTTPError as error:
            words = str(error) or type(error).__name__
            raise BrokerAway(f"the management API does not answer: {words}") from error

    async def queue(self, queue: Queue) -> dict[str, Any] | None:
        """All that the server says of `queue`; None where it does not exist."""
        found: dict[str, Any] | None = await self._ask("GET", "queues", self.vhost, queue)
        return found

    async def queues(self) -> list[dict[str, Any]]:
        """How much is in each queue of the virtual host, who consumes it, and what has passed through it."""
        columns = "vhost,name,exclusive,auto_delete,messages,consumers,message_stats"
        found: list[dict[str, Any]] | None = await self._ask("GET", "queues", self.vhost, columns=columns)
        if found is None:
            raise BrokerAway(f"RabbitMQ has no virtual host {self.vhost!r}: check RABBITMQ_URL")
        return found

    async def queue_history(self, queue: Queue, seconds: int, step: int) -> dict[str, Any] | None:
        """As `queue`, with samples of the last `seconds`, one in `step` s, the newest first."""
        params = {"lengths_age": seconds, "lengths_incr": step, "msg_rates_age": seconds, "msg_rates_incr": step}
        found: dict[str, Any] | None = await self._ask("GET", "queues", self.vhost, queue, **params)
        return found

    async def nodes(self) -> list[dict[str, Any]]:
        """Memory, disk and alarms of each node. The user needs the tag `monitoring`."""
        found: list[dict[str, Any]] = await self._ask("GET", "nodes") or []
        return found

    async def connections(self) -> list[dict[str, Any]]:
        """Those to the virtual host that this user may see."""
        found: list[dict[str, Any]] = await self._ask("GET", "vhosts", self.vhost, "connections") or []
        return found

    async def clock(self) -> datetime | None:
        """The server's clock, to the second."""
        answer = await self._answer("GET", "/api/whoami", None, {})
        try:
            return parsedate_to_datetime(answer.headers["date"])
        except (KeyError, ValueError):
            return None

    async def set_policies(self, queue_type: QueueType) -> None:
        """Set them, and return when they are in force, a moment later."""
        for wanted in definitions(queue_type, self.vhost)["policies"]:
            body = {key: wanted[key] for key in ("pattern", "definition", "priority", "apply-to")}
            await self._ask("PUT", "policies", self.vhost, wanted["name"], body=body)
        for _ in range(100):
            if not [finding for finding in await self.check(queue_type) if "policy" in finding.what]:
                return
            await asyncio.sleep(0.1)

    async def check(self, queue_type: QueueType) -> list[Finding]:
        """Compare what is there with the topology; nothing is changed."""
        findings = []
        for exchange in EXCHANGES:
            found = await self._ask("GET", "exchanges", self.vhost, exchange)
            if found is None:
                findings.append(Finding(f"the exchange {exchange} does not exist", DECLARE))
            elif found["type"] != "topic" or not found["durable"]:
                what = f"the exchange {exchange} is {found['type']}, durable={found['durable']}, not a durable topic"
                findings.append(Finding(what, f"delete it while nothing runs, then {DECLARE}"))
        for queue in QUEUES:
            findings += await self._check_queue(queue, queue_type)
        return findings

    async def _check_queue(self, queue: Queue, queue_type: QueueType) -> list[Finding]:
        found = await self.queue(queue)
        if found is None:
            return [Finding(f"the queue {queue} does not exist", DECLARE)]
        findings = []
        wanted = arguments(queue, queue_type)
        # Newer servers name the type of every queue among its arguments.
        actual = {k: v for k, v in found["arguments"].items() if (k, v) != ("x-queue-type", "classic")}
        for key in sorted(wanted.keys() | actual.keys()):
            if wanted.get(key) != actual.get(key):
                what = f"the queue {queue} has {key} = {actual.get(key, 'nothing')}, not {wanted.get(key, 'nothing')}"
                step = (
                    f"stop relay and workers, `spheroseg queue purge {queue}` once it is drained, delete the queue, "
                    f"then {DECLARE}; tasks that were in it are queued again by themselves"
                )
                findings.append(Finding(what, step))
        bound = {
            (binding["source"], binding["routing_key"])
            for binding in await self._ask("GET", "queues", self.vhost, queue, "bindings") or []
        }
        for source, key in QUEUES[queue].bindings:
            if (source, key) not in bound:
                findings.append(Finding(f"{queue} is not bound to {source} with {key}", DECLARE))
        in_force = found.get("effective_policy_definition") or {}
        for key, value in policy(queue, queue_type).items():
            if in_force.get(key) != value:
                what = f"the policy of {queue} has {key} = {in_force.get(key, 'nothing')}, not {value}"
                findings.append(Finding(what, f"{DECLARE}, or keep it if an operator set it on purpose"))
        return findings
