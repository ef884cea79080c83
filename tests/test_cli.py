"""The command line as a whole: every command exists, and none loads what only another one needs."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from spheroseg import __version__
from spheroseg.cli import COMMANDS, app

pytestmark = pytest.mark.slow


def test_every_command_is_listed_and_helps() -> None:
    listed = CliRunner().invoke(app, ["--help"])
    assert listed.exit_code == 0
    for name in COMMANDS:
        assert f" {name} " in listed.output
        helped = CliRunner().invoke(app, [name, "-h"])
        assert helped.exit_code == 0
        assert f"Usage: root {name} " in helped.output


def test_a_misspelt_command_is_an_error_that_names_the_similar_one() -> None:
    told = CliRunner().invoke(app, ["dcotor"])
    assert told.exit_code == 2
    assert "Did you mean 'doctor'?" in told.output


def test_the_code_of_a_command_is_loaded_when_it_is_used() -> None:
    script = """
import sys
from spheroseg.cli import main
try:
    main()
finally:
    print(*sorted({"numpy", "cv2", "scipy", "sqlalchemy", "onnxruntime", "torch"} & set(sys.modules)))
"""
    for words, loaded in ((["--version"], ""), (["queue", "--help"], "sqlalchemy"), (["relay", "-h"], "sqlalchemy")):
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == loaded, words
    assert (
        __version__
        in subprocess.run([sys.executable, "-m", "spheroseg.cli", "--version"], capture_output=True, text=True).stdout
    )


def test_the_package_is_a_program_too() -> None:
    done = subprocess.run([sys.executable, "-m", "spheroseg", "--version"], capture_output=True, text=True)
    assert done.stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("spheroseg ru", {"run"}),
        ("spheroseg queue p", {"peek", "purge"}),
        ("spheroseg run --pixel", {"--pixel-size"}),
        ("spheroseg model tr", {"train"}),
    ],
)
def test_the_shell_completes_commands_and_options(typed: str, completed: set[str]) -> None:
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_SPHEROSEG_COMPLETE": "complete_bash"}
    script = "import sys; sys.argv = ['spheroseg']; from spheroseg.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **asked})
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == completed


def test_the_completion_script_is_shown_for_a_shell() -> None:
    # Without an argument the shell is the one that the terminal runs.
    script = (
        "import sys; sys.argv = ['spheroseg', '--show-completion', 'bash']; from spheroseg.cli import main; main()"
    )
    asked = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=asked)
    assert "complete -o default -F _spheroseg_completion spheroseg" in done.stdout
