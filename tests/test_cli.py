"""The command line as a whole: every command is found, and one does not wait for what another needs."""

import subprocess
import sys

from typer.testing import CliRunner

from spheroseg import __version__
from spheroseg.cli import COMMANDS, app


def test_every_command_is_listed_and_helps() -> None:
    listed = CliRunner().invoke(app, ["--help"])
    assert listed.exit_code == 0
    for name in COMMANDS:
        assert f" {name} " in listed.output
        helped = CliRunner().invoke(app, [name, "-h"])
        assert helped.exit_code == 0
        assert f"Usage: root {name} " in helped.output


def test_a_slip_in_a_command_is_told_with_the_one_that_was_meant() -> None:
    told = CliRunner().invoke(app, ["dcotor"])
    assert told.exit_code == 2
    assert "Did you mean 'doctor'?" in told.output


def test_the_code_of_a_command_is_loaded_when_it_is_asked_for() -> None:
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
