"""The Compose files as docker-compose itself reads them, and their services run without containers.

An instance gets exactly the command, the environment, the settings file and the health check of its service; only
addresses, ports and folders are others.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

from ..conftest import eventually, missing_server
from .ports import free_port

ROOT = Path(__file__).parents[2]
DEVELOPMENT = ("docker-compose.yml", "docker-compose.rabbitmq.yml")
PRODUCTION = (*DEVELOPMENT, "deploy/docker-compose.production.yml")

# Where our services listen in a container, and the setting that moves them.
PORTS = {"BACKEND_PORT": 8080, "WORKER_HTTP_PORT": 8000, "EXPORTER_PORT": 9419}


@cache
def services(*files: str) -> dict[str, dict[str, Any]]:
    """Every service of these files together, by name, with the variables at their defaults."""
    if shutil.which("docker-compose") is None:
        missing_server("docker-compose")
    # Not what the .env of this checkout says.
    command = [
        "docker-compose",
        "--env-file",
        ".env.example",
        *(word for file in files for word in ("-f", file)),
        "config",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = yaml.safe_load(done.stdout)["services"]
    return found


def environment_of(service: Mapping[str, Any]) -> dict[str, str]:
    """Without the variables that have no value, which a container does not get either."""
    return {name: str(value) for name, value in service.get("environment", {}).items() if value is not None}


def mounts(service: Mapping[str, Any]) -> dict[str, str]:
    """What the container sees at a path: a path here, or the name of a volume."""
    found = {}
    for volume in service.get("volumes", []):
        # The first version of docker-compose says it in a word, the second in a mapping.
        source, target = volume.split(":")[:2] if isinstance(volume, str) else (volume["source"], volume["target"])
        found[target] = source
    return found


def published(service: Mapping[str, Any]) -> list[str]:
    """address:port:port of the container, for each."""
    return [
        port.removesuffix("/tcp")
        if isinstance(port, str)
        else f"{port.get('host_ip')}:{port['published']}:{port['target']}"
        for port in service.get("ports", [])
    ]


def seconds(duration: str) -> float:
    """Of a Compose duration, such as 5m30s."""
    total, number = 0.0, ""
    for character in duration:
        if character.isdigit():
            number += character
        else:
            total += int(number) * {"h": 3600, "m": 60, "s": 1}[character]
            number = ""
    return total


def dockerfile() -> DockerfileParser:
    return DockerfileParser(path=str(ROOT / "Dockerfile"), cache_content=True)


class Instance:
    """One instance of a service. `elsewhere`: what is another address, database or folder here, and which.

    `command`: instead of the service's own. `settings_file`: what the container has as /app/.env, to be edited.
    """

    def __init__(
        self, name: str, folder: Path, elsewhere: Mapping[str, str], command: Sequence[str] | None = None
    ) -> None:
        service = services(*DEVELOPMENT)[name]
        self.name = name
        self.grace = seconds(service.get("stop_grace_period", "10s"))
        self.log = folder / "log"
        self.command = list(command or service["command"])
        self.ports = {setting: free_port() for setting in PORTS}
        self._folder = folder / "app"
        # What the image has in its working folder.
        shutil.copytree(ROOT / "ml", self._folder, ignore=shutil.ignore_patterns("__pycache__"))
        own = {"/var/lib/spheroseg": str(folder / "own"), **elsewhere}
        self.settings_file = self._folder / ".env"
        self.settings_file.write_text(_moved(Path(mounts(service)["/app/.env"]).read_text(), own))
        image = {key: value for key, value in dockerfile().envs.items() if key != "PATH"}
        self._environment = {
            # `python` and `spheroseg` are those that run the tests.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            **{key: _moved(value, own) for key, value in (image | environment_of(service)).items()},
            **{setting: str(port) for setting, port in self.ports.items()},
        }
        self._health = list(service["healthcheck"]["test"])
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, setting: str) -> str:
        """Of the port that `setting` names."""
        return f"http://127.0.0.1:{self.ports[setting]}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                # If the tests themselves are killed, the kernel ends it too.
                ["setpriv", "--pdeathsig", "KILL", *self.command],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the first process, the one that a container lives as long as."""
        assert self._process is not None
        return self._process.pid

    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    async def stop(self) -> None:
        """As `docker-compose stop` does, except that what needs the KILL at the end of the grace period fails."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        await eventually(self.has_ended, min(self.grace, 60.0), f"{self.name} does not stop")
        assert self._process.returncode == 0, f"{self.name} ended with {self._process.returncode}:\n{self.tail()}"
        self.kill()

    def kill(self) -> None:
        """All of it, as when a container ends."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def is_healthy(self) -> bool:
        """The answer of the service's own health check."""
        kind, *command = self._health
        assert kind == "CMD"
        moved = {f":{PORTS[setting]}/": f":{port}/" for setting, port in self.ports.items()}
        check = [_moved(word, moved) for word in command]
        return not subprocess.run(check, env=self._environment, cwd=self._folder, capture_output=True).returncode

    async def becomes_healthy(self, within: float = 60.0) -> None:
        try:
            await eventually(self.is_healthy, within)
        except AssertionError:
            raise AssertionError(f"{self.name} does not become healthy:\n{self.tail()}") from None

    def tail(self) -> str:
        return self.log.read_text()[-4000:] if self.log.exists() else ""


def _moved(text: str, elsewhere: Mapping[str, str]) -> str:
    for there, here in elsewhere.items():
        text = text.replace(there, here)
    return text
