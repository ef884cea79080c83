"""`spheroseg user | token`, as a person starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spheroseg.api.auth import authenticate, finish_recording
from spheroseg.database.engine import open_engine
from spheroseg.errors import Unauthenticated

from .conftest import empty_database

pytestmark = pytest.mark.slow


def call(*arguments: str, env: dict[str, str], code: int = 0) -> tuple[str, str]:
    """stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "spheroseg.cli", *arguments],
        env={**os.environ, "COLUMNS": "200", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def here(tmp_path: Path) -> dict[str, str]:
    return {"SPHEROSEG_DATA_DIR": str(tmp_path), "DATABASE_URL": f"sqlite:///{tmp_path / 'test.db'}"}


async def test_a_token_from_the_command_line_is_valid_until_it_is_revoked(database_url: str, tmp_path: Path) -> None:
    env = {"SPHEROSEG_DATA_DIR": str(tmp_path), "DATABASE_URL": database_url}
    async with empty_database(database_url):
        pass
    call("user", "add", "ada", "--tier", "premium", "--role", "admin", env=env)
    out, said = call("token", "create", "ada", "--name", "laptop", "--days", "30", env=env)
    (token,) = out.splitlines()
    assert token.startswith("spheroseg_")
    assert token not in said
    assert "not shown again" in said

    engine = open_engine(database_url)
    user = await authenticate(engine, token)
    # The commands block this process, and it must not keep the database from them meanwhile.
    await finish_recording()
    assert (user.name, user.tier, user.role) == ("ada", "premium", "admin")
    (listed,) = json.loads(call("token", "list", "ada", "--json", env=env)[0])
    assert (listed["user"], listed["name"], listed["revoked_at"]) == ("ada", "laptop", None)
    assert listed["expires_at"] > listed["created_at"]

    call("token", "revoke", "ada", "laptop", env=env)
    with pytest.raises(Unauthenticated):
        await authenticate(engine, token)
    await engine.dispose()
    (listed,) = json.loads(call("token", "list", "--json", env=env)[0])
    assert listed["revoked_at"] is not None


def test_a_user_is_listed_and_changed(here: dict[str, str]) -> None:
    assert "user add" in call("user", "list", env=here)[0]
    call("user", "add", "ben", env=here)
    assert "ben is premium, member" in call("user", "set", "ben", "--tier", "premium", env=here)[0]
    (ben,) = json.loads(call("user", "list", "--json", env=here)[0])
    assert (ben["name"], ben["tier"], ben["role"]) == ("ben", "premium", "member")
    assert "premium" in call("user", "list", env=here)[0]


@pytest.fixture(scope="module")
def with_ada(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Ada, with a token in use and a revoked one."""
    env = {"SPHEROSEG_DATA_DIR": str(tmp_path_factory.mktemp("ada"))}
    call("user", "add", "ada", env=env)
    for name in ("laptop", "stolen"):
        call("token", "create", "ada", "--name", name, env=env)
    call("token", "revoke", "ada", "stolen", env=env)
    return env


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("user", "add", "ada"), "there is a user 'ada' already"),
        (("user", "add", "a/b"), "cannot be a user's name"),
        (("user", "add", " "), "cannot be a user's name"),
        (("user", "add", "ben", "--tier", "gold"), "gold"),
        (("user", "set", "ada"), "--tier, --role, or both"),
        (("user", "set", "eve", "--tier", "premium"), "`spheroseg user list`"),
        (("token", "create", "eve", "--name", "x"), "`spheroseg user list`"),
        (("token", "create", "ada", "--name", "laptop"), "choose another name"),
        (("token", "create", "ada", "--name", "stolen"), "was revoked"),
        (("token", "create", "ada", "--name", "x", "--days", "0"), "--days"),
        (("token", "create", "ada"), "--name"),
        (("token", "list", "eve"), "`spheroseg user list`"),
        (("token", "revoke", "ada", "phone"), "`spheroseg token list`"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_to_do(
    with_ada: dict[str, str], arguments: tuple[str, ...], says: str
) -> None:
    out, said = call(*arguments, env=with_ada, code=2)
    assert not out
    assert says in " ".join(said.replace("│", "").split())
