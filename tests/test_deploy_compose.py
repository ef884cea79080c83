"""The Compose files and the Dockerfile: valid, known to the settings, and run as they say, outside containers."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from spheroseg.broker.credentials import is_password
from spheroseg.messages import Queue
from spheroseg.settings import Settings
from spheroseg.worker.child import child_command

from .conftest import Postgres, eventually
from .support.compose import (
    DEVELOPMENT,
    PORTS,
    PRODUCTION,
    ROOT,
    dockerfile,
    environment_of,
    mounts,
    published,
    seconds,
    services,
)
from .support.rabbitmq import VHOST, RabbitNode
from .support.stack import stack_on, switch

pytestmark = pytest.mark.slow

OURS = ("backend", "ml", "exporter")
SETTINGS = {name.upper() for name in Settings.model_fields}
MANUAL = ROOT / "docs" / "operations.md"
SPECIFIED_ML_COMMAND = ["sh", "-c", "python message_queue_consumer.py & python app.py"]


def names_in(env_file: Path) -> set[str]:
    lines = (line for line in env_file.read_text().splitlines() if line and not line.startswith("#"))
    return {line.partition("=")[0] for line in lines}


@pytest.mark.parametrize("file", PRODUCTION)
def test_a_file_is_valid_by_the_compose_schema(file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_docker_compose_makes_the_five_services_of_them() -> None:
    assert set(services(DEVELOPMENT[0])) == {"db", "backend", "ml"}
    assert (
        set(services(*DEVELOPMENT)) == set(services(*PRODUCTION)) == {"db", "rabbitmq", "backend", "ml", "exporter"}
    )


@pytest.mark.parametrize("name", ["db", "rabbitmq", *OURS])
def test_a_service_has_what_it_takes_to_be_left_alone(name: str) -> None:
    service = services(*DEVELOPMENT)[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    for target, source in mounts(service).items():
        is_to_come = source.startswith(f"{ROOT}/scripts") and not (ROOT / "scripts").exists()
        if source.startswith("/") and not is_to_come:
            assert Path(source).exists(), f"{name} mounts {source} as {target}"


def test_the_ports_are_the_specified_ones_and_open_to_this_machine_only() -> None:
    found = [port for service in services(*DEVELOPMENT).values() for port in published(service)]
    assert sorted(found) == sorted(f"127.0.0.1:{port}:{port}" for port in (5672, 8080, 9419, 15672))


@pytest.mark.parametrize("name", OURS)
def test_the_settings_know_every_variable_that_a_service_is_given(name: str) -> None:
    for files in (DEVELOPMENT, PRODUCTION):
        service = services(*files)[name]
        assert service["environment"].keys() <= SETTINGS
        assert names_in(Path(mounts(service)["/app/.env"])) <= SETTINGS
        secrets = {secret["source"] for secret in service.get("secrets", [])}
        assert {secret.upper() for secret in secrets} <= SETTINGS
    assert set(dockerfile().envs) - {"PATH", "PYTHONUNBUFFERED"} <= SETTINGS


def test_what_a_restart_must_change_stands_in_no_environment() -> None:
    for name in OURS:
        service = services(*DEVELOPMENT)[name]
        changeable = names_in(Path(mounts(service)["/app/.env"]))
        assert {"ENABLE_MESSAGE_QUEUE", "RABBITMQ_URL"} <= changeable
        assert not changeable & service["environment"].keys()


def test_production_takes_every_secret_from_a_file() -> None:
    for name, service in services(*PRODUCTION).items():
        given = json.dumps(environment_of(service))
        assert "postgres:postgres" not in given
        assert "spheroseg_secret" not in given
        if name in OURS:
            secrets = {secret["source"] for secret in service["secrets"]}
            assert {"database_url", "rabbitmq_url"} <= secrets
            # A line in that file would win over the secret.
            assert not {secret.upper() for secret in secrets} & names_in(Path(mounts(service)["/app/.env"]))
    assert mounts(services(*PRODUCTION)["rabbitmq"])["/etc/rabbitmq/definitions.json"].endswith(
        "/secrets/definitions.json"
    )


def test_stopping_the_ml_service_interrupts_no_task() -> None:
    service = services(*DEVELOPMENT)["ml"]
    grace = float(environment_of(service)["SHUTDOWN_GRACE_SECONDS"])
    assert grace >= Settings().task_timeout_seconds
    assert seconds(service["stop_grace_period"]) >= grace + 30


def test_the_image_holds_what_the_commands_need_and_runs_as_nobody_special() -> None:
    parser = dockerfile()
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    user = workdir = command = None
    for step in parser.structure:
        words = step["value"].split()
        match step["instruction"]:
            case "COPY" if not words[0].startswith("--from"):
                for source in words[:-1]:
                    assert (ROOT / source).exists()
                    assert source in let_through
            case "USER":
                user = step["value"]
            case "WORKDIR":
                workdir = step["value"]
            case "CMD":
                command = json.loads(step["value"])
            case "HEALTHCHECK":
                (health,) = re.findall(r"http://[^']+", step["value"])
            case "EXPOSE":
                assert {int(word) for word in words} == set(PORTS.values())
    assert user == "1000:1000"
    assert workdir == "/app"
    assert "ml /app" in parser.content, "the two scripts are at the top of the working folder"
    backend = services(*DEVELOPMENT)["backend"]
    assert command == backend["command"]
    assert health in backend["healthcheck"]["test"][-1]


def test_one_image_is_built_for_all_services_with_extras_that_exist() -> None:
    builds = [services(*DEVELOPMENT)[name]["build"] for name in OURS]
    assert all(build == builds[0] for build in builds)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    arguments = builds[0]["args"]
    assert set(arguments["EXTRAS"].split(",")) <= set(declared["optional-dependencies"])
    assert f"ARG EXTRAS={arguments['EXTRAS']}\n" in dockerfile().content
    locked = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert set(arguments["WITHOUT"].split()) <= locked
    # The module that it compiles is the one that a worker starts.
    assert f"python -m {child_command('', '')[2]} --help" in dockerfile().content


def test_the_services_load_without_what_their_image_leaves_out() -> None:
    script = """
import sys
for name in ("altair", "narwhals", "vl_convert"):
    sys.modules[name] = None
import spheroseg.api.serve, spheroseg.api.ml, spheroseg.api.exporter, spheroseg.services, spheroseg.worker.segment
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def blocks_of(page: Path) -> list[str]:
    """What stands in the shell blocks of a page."""
    found = re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def test_every_command_in_the_manual_names_files_and_services_that_there_are() -> None:
    lines = [line for block in blocks_of(MANUAL) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("docker-compose ")]
    assert len(commands) > 20
    for command in commands:
        words = command[1:]
        while words[0] == "-f":
            assert (ROOT / words[1]).is_file(), command
            words = words[2:]
        verb, *rest = words
        assert verb in {"build", "exec", "logs", "ps", "restart", "run", "start", "stop", "up"}, command
        with_value = {"-e", "--scale", "--tail"}
        named = [
            word for before, word in pairwise(["", *rest]) if not word.startswith("-") and before not in with_value
        ]
        # What comes after the service is a command in its container.
        named = named[:1] if verb in {"exec", "run"} else named
        assert set(named) <= set(services(*DEVELOPMENT)), command
        for path in (word for word in rest if word.startswith("/scripts/")):
            if (ROOT / "scripts").exists():
                assert (ROOT / path[1:]).is_file(), command


def run_block(naming: str, folder: Path) -> None:
    """The block of the manual in which that stands, in a folder where docker-compose runs things right here."""
    (block,) = (block for block in blocks_of(MANUAL) if naming in block)
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    stand_in = binaries / "docker-compose"
    stand_in.write_text('#!/bin/sh\nwhile [ "$1" != backend ]; do shift; done\nshift\nexec "$@"\n')
    stand_in.chmod(0o755)
    path = f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    subprocess.run(["sh", "-euc", block], cwd=folder, env=environment, check=True)


def test_the_secrets_of_production_are_made_as_the_manual_says(tmp_path: Path) -> None:
    run_block("mkdir -m 700 secrets", tmp_path)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    wanted = {secret["source"] for service in services(*PRODUCTION).values() for secret in service.get("secrets", [])}
    assert made.keys() == wanted | {"definitions.json"}
    assert made["postgres_password"] in made["database_url"]
    (user,) = json.loads(made["definitions.json"])["users"]
    for name in ("rabbitmq_url", "rabbitmq_management_url"):
        login = urlsplit(made[name])
        assert login.username == user["name"]
        assert is_password(login.password or "", user["password_hash"])
    assert len(made["secret_key"]) > 40


def test_the_message_queue_is_switched_on_and_off_as_the_manual_says(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "backend.env", tmp_path / "deploy")
    run_block("true/' deploy/backend.env\ndocker-compose restart backend", tmp_path)
    assert "\nENABLE_MESSAGE_QUEUE=true\n" in (tmp_path / "deploy" / "backend.env").read_text()
    run_block("ENABLE_MESSAGE_QUEUE=false/", tmp_path)
    assert "\nENABLE_MESSAGE_QUEUE=false\n" in (tmp_path / "deploy" / "backend.env").read_text()


async def test_the_ml_service_works_on_the_database_queue_and_after_a_switch_and_a_restart_on_rabbitmq(
    postgres: Postgres, shipped_rabbit: RabbitNode, tmp_path: Path
) -> None:
    async with stack_on(postgres, shipped_rabbit, tmp_path) as stack:
        backend = stack.start("backend")
        ml = stack.start("ml")
        assert not ml.is_healthy()
        await backend.becomes_healthy()
        await ml.becomes_healthy()
        await stack.completes_a_task()
        for instance in (ml, backend):
            await instance.stop()
            switch(instance, True)
            instance.start()
        await backend.becomes_healthy()
        await ml.becomes_healthy()
        await stack.completes_a_task()

        def went_through_rabbitmq() -> bool:
            queue = shipped_rabbit.api("GET", f"/api/queues/{VHOST}/{Queue.TASKS}")
            return bool(queue.get("message_stats", {}).get("ack", 0) == 1)

        await eventually(went_through_rabbitmq, within=15)
        await ml.stop()


async def test_the_ml_service_ends_with_its_consumer_and_is_unhealthy_without_its_http_face(
    postgres: Postgres, tmp_path: Path
) -> None:
    async with stack_on(postgres, None, tmp_path) as stack:
        ml = stack.start("ml")
        await ml.becomes_healthy()
        face = child_of(ml.pid, "app.py")
        os.kill(face, 9)
        await eventually(lambda: not ml.is_healthy())
        os.kill(ml.pid, 9)
        await eventually(ml.has_ended)


def child_of(pid: int, script: str) -> int:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if script in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    raise AssertionError(f"{pid} has no child that runs {script}")


async def test_the_specified_command_of_the_ml_service_works_too(postgres: Postgres, tmp_path: Path) -> None:
    async with stack_on(postgres, None, tmp_path) as stack:
        stack.start("backend")
        ml = stack.start("ml", SPECIFIED_ML_COMMAND)
        await ml.becomes_healthy()
        await stack.completes_a_task()


def test_the_health_checks_of_the_servers_are_their_own(postgres: Postgres, shipped_rabbit: RabbitNode) -> None:
    check: list[Any] = services(*DEVELOPMENT)["db"]["healthcheck"]["test"]
    command = [str(postgres.binaries / check[1]), *check[2:], "-p"]
    assert subprocess.run([*command, str(postgres.port)], capture_output=True).returncode == 0
    assert subprocess.run([*command, "9"], capture_output=True).returncode == 2
    tool, quiet, what = services(*DEVELOPMENT)["rabbitmq"]["healthcheck"]["test"][1:]
    assert quiet == "-q"
    assert "Successfully connected" in shipped_rabbit.ctl(what, tool=tool)
