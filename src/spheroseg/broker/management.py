"""A client of RabbitMQ's management API, for policies and for what AMQP does not show."""

import asyncio
from collections.abc import Iterator
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

# An object of the JSON that the API returns.
JsonObject = dict[str, Any]
Params = dict[str, str | int]

DECLARE = "run `spheroseg broker declare`"
POLICY_CHECKS = 100
POLICY_CHECK_SECONDS = 0.1


@dataclass(frozen=True)
class Difference:
    """A difference between the broker and the declared topology. advice: how to remove it."""

    what: str
    advice: str


class Management:
    """The API at `url` (http://USER:PASSWORD@HOST:PORT), for the virtual host of `rabbitmq_url`.

    timeout: seconds to wait for any answer. All methods raise BrokerAway if the API does not answer or refuses the
    user. What they return is the JSON of RabbitMQ's HTTP API.
    """

    def __init__(self, url: str, rabbitmq_url: str, timeout: float = 5.0) -> None:
        import httpx

        self._client = httpx.AsyncClient(base_url=url, timeout=timeout)
        self.vhost = unquote(urlsplit(rabbitmq_url).path[1:]) or "/"

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(
        self, method: str, *path: str, body: JsonObject | None = None, params: Params | None = None
    ) -> Any:
        url_path = "/api/" + "/".join(quote(part, safe="") for part in path)
        response = await self._request(method, url_path, body, params)
        if response.status_code == 404:
            return None
        if response.status_code == 401:
            raise BrokerAway("the management API refuses this user: check RABBITMQ_MANAGEMENT_URL")
        if response.is_error:
            raise BrokerAway(f"the management API answers {response.status_code}: {response.text[:200]}")
        return response.json() if response.content else None

    async def _request(
        self, method: str, url_path: str, body: JsonObject | None, params: Params | None
    ) -> "httpx.Response":
        import httpx

        try:
            return await self._client.request(method, url_path, json=body, params=params)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise BrokerAway(f"the management API does not answer: {reason}") from error

    async def queue(self, queue: Queue) -> JsonObject | None:
        """Return everything that the API knows about `queue`, or None if the queue does not exist."""
        state: JsonObject | None = await self._ask("GET", "queues", self.vhost, queue)
        return state

    async def queues(self) -> list[JsonObject]:
        """Return the numbers of messages and consumers, and the message statistics, of each queue."""
        columns = "vhost,name,exclusive,auto_delete,messages,consumers,message_stats"
        states: list[JsonObject] | None = await self._ask("GET", "queues", self.vhost, params={"columns": columns})
        if states is None:
            raise BrokerAway(f"RabbitMQ has no virtual host {self.vhost!r}: check RABBITMQ_URL")
        return states

    async def queue_history(self, queue: Queue, seconds: int, step: int) -> JsonObject | None:
        """Return what `queue` returns, with one sample per `step` seconds of the last `seconds`, the newest first."""
        params: Params = {
            "lengths_age": seconds,
            "lengths_incr": step,
            "msg_rates_age": seconds,
            "msg_rates_incr": step,
        }
        state: JsonObject | None = await self._ask("GET", "queues", self.vhost, queue, params=params)
        return state

    async def nodes(self) -> list[JsonObject]:
        """Return memory, disk and alarms of each node. The user needs the tag `monitoring`."""
        nodes: list[JsonObject] = await self._ask("GET", "nodes") or []
        return nodes

    async def connections(self) -> list[JsonObject]:
        """Return the connections to the virtual host that this user may see."""
        connections: list[JsonObject] = await self._ask("GET", "vhosts", self.vhost, "connections") or []
        return connections

    async def clock(self) -> datetime | None:
        """Return the time of the server's clock, to the second, or None if it does not send it."""
        response = await self._request("GET", "/api/whoami", None, None)
        try:
            return parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError):
            return None

    async def set_policies(self, queue_type: QueueType) -> None:
        """Set the policies of the topology. Return once they are in force, or after POLICY_CHECKS checks."""
        for set_policy in definitions(queue_type, self.vhost)["policies"]:
            body = {key: set_policy[key] for key in ("pattern", "definition", "priority", "apply-to")}
            await self._ask("PUT", "policies", self.vhost, set_policy["name"], body=body)
        for _ in range(POLICY_CHECKS):
            if not any("policy" in difference.what for difference in await self.check(queue_type)):
                return
            await asyncio.sleep(POLICY_CHECK_SECONDS)

    async def check(self, queue_type: QueueType) -> list[Difference]:
        """Return the differences between the broker and the topology. Changes nothing."""
        differences = []
        for name in EXCHANGES:
            exchange = await self._ask("GET", "exchanges", self.vhost, name)
            if exchange is None:
                differences.append(Difference(f"the exchange {name} does not exist", DECLARE))
            elif exchange["type"] != "topic" or not exchange["durable"]:
                what = (
                    f"the exchange {name} is {exchange['type']}, durable={exchange['durable']}, not a durable topic"
                )
                differences.append(Difference(what, f"delete it while nothing runs, then {DECLARE}"))
        for queue in QUEUES:
            differences += await self._check_queue(queue, queue_type)
        return differences

    async def _check_queue(self, queue: Queue, queue_type: QueueType) -> list[Difference]:
        state = await self.queue(queue)
        if state is None:
            return [Difference(f"the queue {queue} does not exist", DECLARE)]
        return [
            *_check_arguments(queue, queue_type, state),
            *await self._check_bindings(queue),
            *_check_policy(queue, queue_type, state),
        ]

    async def _check_bindings(self, queue: Queue) -> list[Difference]:
        bindings = await self._ask("GET", "queues", self.vhost, queue, "bindings") or []
        bound = {(binding["source"], binding["routing_key"]) for binding in bindings}
        return [
            Difference(f"{queue} is not bound to {source} with {key}", DECLARE)
            for source, key in QUEUES[queue].bindings
            if (source, key) not in bound
        ]


def _check_arguments(queue: Queue, queue_type: QueueType, state: JsonObject) -> Iterator[Difference]:
    declared = arguments(queue, queue_type)
    # Newer servers list the type of every queue among its arguments.
    actual = {k: v for k, v in state["arguments"].items() if (k, v) != ("x-queue-type", "classic")}
    advice = (
        f"stop relay and workers, `spheroseg queue purge {queue}` once it is drained, delete the queue, "
        f"then {DECLARE}; tasks that were in it are queued again by themselves"
    )
    for key in sorted(declared.keys() | actual.keys()):
        if declared.get(key) != actual.get(key):
            yield Difference(
                f"the queue {queue} has {key} = {actual.get(key, 'nothing')}, not {declared.get(key, 'nothing')}",
                advice,
            )


def _check_policy(queue: Queue, queue_type: QueueType, state: JsonObject) -> Iterator[Difference]:
    in_force = state.get("effective_policy_definition") or {}
    for key, value in policy(queue, queue_type).items():
        if in_force.get(key) != value:
            what = f"the policy of {queue} has {key} = {in_force.get(key, 'nothing')}, not {value}"
            yield Difference(what, f"{DECLARE}, or keep it if an operator set it on purpose")
