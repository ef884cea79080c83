"""Private RabbitMQ nodes on loopback that a test may start, stop, kill, pause, wipe and set into alarm."""

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.support.ports import free_port

USER = "spheroseg"
PASSWORD = "spheroseg-test"  # noqa: S105  # only these tests can reach the nodes
VHOST = "spheroseg"


class NodeError(RuntimeError):
    """The node refused to start or to execute a command. The message has its output."""


@dataclass(frozen=True)
class Release:
    """An installed RabbitMQ: on this machine, or in a folder that is used with chroot."""

    name: str
    root: Path

    @property
    def installed(self) -> bool:
        """Whether exactly this release is installed and, for a folder, this user may chroot."""
        is_there = any((self.root / "usr/lib/rabbitmq/lib").glob(f"rabbitmq_server-{self.name}.*"))
        return is_there and (self.root == Path("/") or os.geteuid() == 0)


CACHE = Path(os.environ.get("SPHEROSEG_TEST_CACHE") or Path.home() / ".cache/spheroseg-tests/trixie")
RABBITMQ_3 = Release("3.10", Path("/"))
RABBITMQ_4 = Release("4.0", CACHE)


class RabbitNode:
    """One node with its own name, ports, epmd, cookie, data and configuration. As a context manager, it starts.

    All methods block. Call the slow ones (start, stop, ctl) with asyncio.to_thread if the event loop must go on.
    """

    def __init__(
        self,
        release: Release = RABBITMQ_3,
        *,
        conf: Iterable[str] = (),
        definitions: Mapping[str, Any] | None = None,
        plugins: Iterable[str] = ("rabbitmq_management",),
        shipped: Path | None = None,
        password: str = PASSWORD,
    ) -> None:
        """conf: lines "key = value" of rabbitmq.conf. definitions: loaded at the first start.

        shipped: a folder whose rabbitmq.conf, definitions.json and enabled_plugins are used as they are. `conf`, and
        the settings that make the node private, are then in a second file. password: the one in the definitions.
        """
        self.release = release
        self.password = password
        self.plugins = tuple(plugins)
        home = None if release.root == Path("/") else release.root / "tmp"
        self.folder = Path(tempfile.mkdtemp(prefix="spheroseg-rabbitmq-", dir=home))
        self.name = f"spheroseg-{uuid.uuid4().hex[:8]}@localhost"
        self.port, self.management_port, self.metrics_port = (free_port() for _ in range(3))
        self._dist_port, self._epmd_port = free_port(), free_port()
        self._cookie = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        (self.folder / "plugins").write_text(f"[{','.join(self.plugins)}].")
        settings = {"listeners.tcp.1": f"127.0.0.1:{self.port}"}
        if shipped is None:
            settings |= {
                "default_user": USER,
                "default_pass": password,
                "default_vhost": VHOST,
                # Makes the API lag by 0.5 s instead of 5 s.
                "collect_statistics_interval": "500",
                "disk_free_limit.absolute": "50MB",
            }
        else:
            shutil.copy(shipped / "rabbitmq.conf", self.folder)
            shutil.copy(shipped / "definitions.json", self.folder)
            shutil.copy(shipped / "enabled_plugins", self.folder / "plugins")
            settings["definitions.local.path"] = str(self._inside / "definitions.json")
        if self._managed:
            settings |= {"management.tcp.ip": "127.0.0.1", "management.tcp.port": str(self.management_port)}
        if "rabbitmq_prometheus" in (self.folder / "plugins").read_text():
            settings |= {"prometheus.tcp.ip": "127.0.0.1", "prometheus.tcp.port": str(self.metrics_port)}
        if definitions is not None:
            (self.folder / "definitions.json").write_text(json.dumps(_with_user(definitions)))
            settings["load_definitions"] = str(self._inside / "definitions.json")
        if release.root != Path("/"):
            # Without /proc the node can read neither its own memory from the kernel nor that of the machine.
            settings["vm_memory_calculation_strategy"] = "allocated"
            settings["total_memory_available_override_value"] = "4GB"
        for line in conf:
            key, _, value = line.partition("=")
            settings[key.strip()] = value.strip()
        own = self.folder / ("rabbitmq.conf" if shipped is None else "conf.d/private.conf")
        own.parent.mkdir(exist_ok=True)
        own.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return self.vhost_url(VHOST)

    def vhost_url(self, vhost: str, port: int | None = None) -> str:
        """Return the AMQP URL of a virtual host. port: of a proxy in front of the node."""
        return f"amqp://{USER}:{self.password}@127.0.0.1:{port or self.port}/{quote(vhost, safe='')}"

    @property
    def management_url(self) -> str:
        return f"http://{USER}:{self.password}@127.0.0.1:{self.management_port}"

    @property
    def pid(self) -> int | None:
        """The process id of the Erlang machine; None while it is down."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, within: float = 60.0) -> None:
        """Start the node if it is down, and return once it serves clients. within: seconds."""
        if self.pid is not None:
            return
        self.kill()  # the remains of a node that died by itself
        self._start_epmd()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("rabbitmq-server"),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                # Its own process group, so that its helper processes die with it.
                start_new_session=True,
            )
        self._start_guard(self._process.pid)
        deadline = time.monotonic() + within
        while not self._ready():
            if self._process.poll() is not None:
                raise NodeError(f"RabbitMQ {self.release.name} did not start:\n{self.log[-4000:]}")
            if time.monotonic() > deadline:
                self.kill()
                raise NodeError(f"RabbitMQ {self.release.name} was not ready in {within} s:\n{self.log[-4000:]}")
            time.sleep(0.05)

    def stop(self, within: float = 60.0) -> None:
        """Stop the node gracefully, and return once it has ended. 3.10 cuts off clients at once, but takes 6 s."""
        if self._process is None:
            return
        self.resume()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(within)
        finally:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the Erlang machine and its helpers, even if paused. Does nothing if it is down."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._stop_guard()

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open and nothing answers."""
        if self.pid is not None:
            self._signal(signal.SIGSTOP)
            # There may still be answers until the signal has stopped the last thread.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Kill the node and delete its data, as if its disk was lost."""
        self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def close(self) -> None:
        """Kill the node and its epmd, and delete its folder."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def ctl(self, *arguments: str, tool: str = "rabbitmqctl") -> str:
        """Return the output of rabbitmqctl, or another tool. Takes a second or two."""
        command = [*self._command(tool), "-q", *arguments]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise NodeError(f"{tool} {' '.join(arguments)}: {done.stdout}{done.stderr}".strip())
        return done.stdout.strip()

    def evaluate(self, erlang: str) -> str:
        """Return the value of an Erlang expression on the node. Takes 20 ms."""
        command = [*self._command("erl_call", "usr/bin"), "-address", f"127.0.0.1:{self._dist_port}"]
        # While a node frees a large message, it does not answer the handshake, and nothing was evaluated.
        for patience in (1, 3, 10, 0):
            done = subprocess.run(
                [*command, "-c", self._cookie, "-e"],
                env=self._environment(),
                input=erlang + ".\n",
                capture_output=True,
                text=True,
                check=False,
            )
            if "failed to connect to node" not in done.stderr + done.stdout or self.pid is None:
                break
            time.sleep(patience)
        if done.returncode or not done.stdout.startswith("{ok, "):
            raise NodeError(f"{erlang}: {done.stdout}{done.stderr}".strip())
        return done.stdout.strip()[len("{ok, ") : -1]

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON answer of the management API, or None if it is empty. path: quoted, with /api/."""
        connection = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=30)
        with contextlib.closing(connection):
            login = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
            headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        if response.status >= 400:
            raise NodeError(f"{method} {path}: {response.status} {content.decode(errors='replace')}")
        return json.loads(content) if content else None

    @contextlib.contextmanager
    def fresh_vhost(self) -> Iterator[str]:
        """Yield the name of an empty virtual host, and delete it afterwards with everything in it."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.create_vhost(name)
        try:
            yield name
        finally:
            # If the test left the node down, keep the virtual host: it does no harm to other tests.
            if self.pid is not None:
                self.api("DELETE", f"/api/vhosts/{name}")

    def create_vhost(self, name: str) -> None:
        vhost = quote(name, safe="")
        self.api("PUT", f"/api/vhosts/{vhost}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"/api/permissions/{vhost}/{USER}", everything)

    def delete_queue(self, queue: str, vhost: str = VHOST) -> None:
        self.api("DELETE", f"/api/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}")

    def purge(self, queue: str, vhost: str = VHOST) -> None:
        self.api("DELETE", f"/api/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}/contents")

    def close_connections(self, reason: str = "closed by a test") -> None:
        """Have the server close the connection of every client (320 CONNECTION_FORCED)."""
        self.evaluate(
            f"lists:foreach(fun(C) -> rabbit_networking:close_connection(C, <<{json.dumps(reason)}>>) end, "
            "rabbit_networking:connections())"
        )

    def memory_alarm(self, on: bool) -> None:
        """Set the memory alarm, or return to the configured limit."""
        limit = "0.0" if on else "element(2, application:get_env(rabbit, vm_memory_high_watermark))"
        self.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({limit})")
        self._wait_for_alarm("memory", on)

    def disk_alarm(self, on: bool) -> None:
        """Set the disk alarm, or return to the configured limit."""
        limit = "1 bsl 60" if on else "element(2, application:get_env(rabbit, disk_free_limit))"
        self.evaluate(f"rabbit_disk_monitor:set_disk_free_limit({limit})")
        self._wait_for_alarm("disk", on)

    def alarms(self) -> set[str]:
        """Return the alarms in force: memory, disk."""
        alarms = self.evaluate("[Kind || {{resource_limit, Kind, _}, _} <- rabbit_alarm:get_alarms()]")
        return {kind for kind in ("memory", "disk") if kind in alarms}

    def _wait_for_alarm(self, kind: str, on: bool) -> None:
        _wait(lambda: (kind in self.alarms()) == on, f"the {kind} alarm is not {'on' if on else 'off'}")

    @property
    def _managed(self) -> bool:
        return "rabbitmq_management" in self.plugins

    @property
    def _inside(self) -> Path:
        """The path of the folder as the node sees it."""
        return Path("/") / self.folder.relative_to(self.release.root)

    def _command(self, tool: str, folder: str = "usr/lib/rabbitmq/bin") -> list[str]:
        chroot = [] if self.release.root == Path("/") else ["chroot", str(self.release.root)]
        return [*chroot, f"/{folder}/{tool}"]

    def _environment(self) -> dict[str, str]:
        inside = self._inside
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(inside),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(inside / "data"),
            "RABBITMQ_LOG_BASE": str(inside / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(inside / "rabbitmq.conf"),
            # Read after RABBITMQ_CONFIG_FILE, so these win.
            "RABBITMQ_CONFIG_FILES": str(inside / "conf.d"),
            # Ignore the configuration of the machine's own node.
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(inside / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(inside / "plugins"),
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            # As few threads as on a small machine, because the tests need the cores too.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 +SDcpu 2:2 +SDio 4 {loopback}",
            "ERL_CRASH_DUMP_SECONDS": "0",
            # Makes the script exec the Erlang machine instead of waiting for it, so that its pid is that of the node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                if not probe.recv(1):
                    return False
            if self._managed:
                self.api("GET", "/api/whoami")
        except (OSError, http.client.HTTPException, NodeError):
            return False
        return True

    def _start_epmd(self) -> None:
        # Run it in the foreground. The epmd that Erlang starts by itself becomes a daemon and outlives the node.
        if self._epmd is not None and self._epmd.poll() is None:
            return
        self._epmd = subprocess.Popen(
            [*self._command("epmd", "usr/bin"), "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _wait(lambda: _listens(self._epmd_port), "epmd did not start")

    def _start_guard(self, pid: int) -> None:
        # If the tests are killed, nobody closes the node. This shell notices that its stdin ends, and kills it.
        assert self._epmd is not None
        script = 'read -r _; kill -9 "-$1" "$2"; rm -rf "$3"'
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", script, "guard", str(pid), str(self._epmd.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _stop_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def _with_user(definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definitions with our user, because a node that loads definitions creates no default user."""
    full = {key: list(value) if isinstance(value, list) else value for key, value in definitions.items()}
    permission = {"user": USER, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"}
    if not any(vhost["name"] == VHOST for vhost in full.setdefault("vhosts", [])):
        full["vhosts"].append({"name": VHOST})
    if not any(user["name"] == USER for user in full.setdefault("users", [])):
        full["users"].append({"name": USER, "password": PASSWORD, "tags": "administrator"})
    if not any((p["user"], p["vhost"]) == (USER, VHOST) for p in full.setdefault("permissions", [])):
        full["permissions"].append(permission)
    return full


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait(is_true: Callable[[], bool], message: str, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not is_true():
        if time.monotonic() > deadline:
            raise NodeError(message)
        time.sleep(0.02)
