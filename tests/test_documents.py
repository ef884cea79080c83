"""The snippets of the documents run, and what the documents name exists.

Every fenced block of README.md and docs/ has a language. `sh` and `python` blocks are run, unless a comment before a
`sh` block gives a reason: `<!-- not run: Docker -->`. Then its commands are only checked against the command line.
`text` and `mermaid` are for reading.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import tifffile
from typer.core import TyperGroup
from typer.main import get_command

from spheroseg.api.app import create_app
from spheroseg.api.submissions import BatchIn
from spheroseg.cli import app as cli
from spheroseg.database.engine import open_engine
from spheroseg.queueing.webhooks import sign
from spheroseg.resources import Resources
from spheroseg.settings import Settings

from .conftest import eventually
from .support.ports import free_port
from .support.processes import Service
from .support.runs import QUICK

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "spheroseg"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(
    r"^(?: *<!-- not run: (?P<reason>[^\n]+) -->\n)? *```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
LANGUAGES = {"sh", "python", "json", "csv", "text", "mermaid"}
# The names that the pages use for patterns of file names.
PLATE_NAMES = ["HCT116_B3_day2.tif", "48h/B03_final.tif", "r02c03f1p1-ch1.tif", "B03-48h.tif"]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `reason`: why a shell block is not run, or empty."""

    page: Path
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def script(self) -> str:
        """For bash; empty if the block is not run."""
        if self.language == "python":
            return f"python3 - <<'END'\n{self.text}END\n"
        return self.text if self.language == "sh" and not self.reason else ""


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        yield Block(page, line, match["language"], match["text"], match["reason"] or "")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def find_block(page: str, language: str) -> Block:
    (block,) = (block for block in BLOCKS if block.page.name == page and block.language == language)
    return block


def test_every_block_has_a_language_and_only_a_shell_block_a_reason_not_to_run() -> None:
    fences = sum(len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) for page in PAGES)
    comments = sum(page.read_text().count("<!-- not run:") for page in PAGES)
    assert fences == 2 * len(BLOCKS)
    assert comments == sum(bool(block.reason) for block in BLOCKS)
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []
    assert [str(block) for block in BLOCKS if block.reason and block.language != "sh"] == []


# --- Shell blocks ---


@pytest.fixture
def folder(page: Path, tmp_path: Path) -> Path:
    """Return a folder with what a reader has before the first command: images, plate.csv and a model."""
    plate, plain = ROOT / "examples" / "plate", ROOT / "examples" / "spheroids"
    names = {"README.md": ["A01_t000h.tif", "B01_t000h.tif"], "plates.md": PLATE_NAMES}.get(page.name, ["1.png"])
    for name in names:
        copy(plain / "image_27.png" if name == "1.png" else plate / "A01_t000h.tif", tmp_path / "FOLDER" / name)
    copy(plate / "A01_t000h.tif", tmp_path / "A01.tif")
    shutil.make_archive(str(tmp_path / "rest"), "zip", tmp_path / "FOLDER")
    planes = np.stack([tifffile.imread(tmp_path / "A01.tif")] * 6).reshape(3, 2, 160, 160)
    channels = {"axes": "ZCYX", "Channel": {"Name": ["GFP", "RFP"]}}
    (tmp_path / "STACKS").mkdir()
    tifffile.imwrite(tmp_path / "STACKS" / "stack.ome.tif", planes, metadata=channels, photometric="minisblack")
    (tmp_path / "plate.csv").write_text(find_block("plates.md", "csv").text)
    copy(PACKAGE / "models" / "spheroid-unet" / "model.onnx", tmp_path / "my-models" / "my-net" / "model.onnx")
    (tmp_path / "my-models" / "my-net" / "model.json").write_text(find_block("model.md", "json").text)
    return tmp_path


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@pytest.fixture
async def port(page: Path, folder: Path) -> AsyncIterator[int]:
    """The port of `spheroseg serve`, which runs during the commands of the page about HTTP."""
    port = free_port()
    if page.name != "api.md":
        yield port
        return
    server = Service("serve", ["spheroseg.cli", "serve"], environment(folder, port), folder / "log")
    server.start()
    try:
        await eventually(lambda: "answers at" in server.tail(), within=60)
        yield port
    finally:
        server.kill()


def environment(folder: Path, port: int) -> dict[str, str]:
    ours = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SPHEROSEG_DATA_DIR": str(folder / "data"),
        "BACKEND_PORT": str(port),
        "WORKER_CONCURRENCY": "1",
        "RABBITMQ_PASSWORD": "for a definition",
    }
    return {**os.environ, **QUICK, **ours}


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.script}), ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page: Path, folder: Path, port: int) -> None:
    script = "".join(block.script for block in BLOCKS if block.page == page)
    done = subprocess.run(
        ["bash", "-eux", "-o", "pipefail", "-c", script.replace("127.0.0.1:8080", f"127.0.0.1:{port}")],
        cwd=folder,
        env=environment(folder, port),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.reason], ids=str)
def test_a_block_that_is_not_run_has_commands_that_exist(block: Block) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        words = list(shlex.shlex(line.replace("'", '"'), posix=True, punctuation_chars=True))
        for before, word, rest in ((words[:n], words[n], words[n + 1 :]) for n in range(len(words))):
            if word.endswith("spheroseg") and (not before or before[-1] == "backend"):
                end = next((n for n, item in enumerate(rest) if item in {"|", ">", ">>", "&&", ";"}), len(rest))
                check_command(rest[:end])
            elif word == "make":
                assert f"\n{rest[0]}:" in (ROOT / "Makefile").read_text()
            elif word.startswith("benchmarks/"):
                options = [item for item in rest if item.startswith("--")]
                assert [item for item in options if f'"{item}"' not in (ROOT / word).read_text()] == []


def check_command(words: list[str]) -> None:
    """Fail if a word after `spheroseg` is no command, or an option is not one of its command."""
    command: Any = get_command(cli)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= options_of(command) | {"--help", "-h"}


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


# --- Other blocks ---


def test_the_signature_of_a_webhook_is_checked_by_the_code_of_the_page() -> None:
    names: dict[str, object] = {}
    exec(find_block("api.md", "python").text, names)  # noqa: S102 (it is our own page)
    is_genuine = names["is_genuine"]
    assert callable(is_genuine)
    assert is_genuine("secret", sign("secret", b"body", 1_790_000_000), b"body")
    assert not is_genuine("secret", sign("other", b"body", 1_790_000_000), b"body")


def test_the_batch_of_the_page_is_one() -> None:
    text = find_block("api.md", "json").text.replace("…", str(uuid4()))
    assert BatchIn.model_validate_json(text).model_dump().keys() == json.loads(text).keys()


def test_tables_and_records_can_be_read() -> None:
    for block in BLOCKS:
        if block.language == "json":
            json.loads(block.text)
        if block.language == "csv":
            assert len({len(row) for row in csv.reader(block.text.splitlines())}) == 1, str(block)


def test_the_packages_and_layers_of_the_architecture_are_those_of_the_code() -> None:
    rows = [row for row in ARCHITECTURE.read_text().splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w[\w.]*)/?`", row.split("|")[1])}
    there = {path.name for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert named == there - {"py.typed"}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer for layer in contracts[0]["layers"] if layer != "__main__"]
    assert [block.text.splitlines() for block in blocks_of(ARCHITECTURE)][1] == layers


# --- What is named in a sentence ---

SPANS = [(page, span) for page in PAGES for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text()))]


def test_every_command_and_option_that_is_named_exists() -> None:
    every_option = {"--help"}
    for command in leaves(get_command(cli)):
        every_option |= options_of(command)
    for page, span in SPANS:
        if span.startswith("spheroseg "):
            check_command(shlex.split(span)[1:])
        elif re.match("--[a-z]", span):
            assert re.split("[ =]", span)[0] in every_option, f"{page.name}: {span}"


def leaves(command: Any) -> Iterator[Any]:
    if isinstance(command, TyperGroup):
        for name in command.commands:
            yield from leaves(command.commands[name])
    else:
        yield command


def test_every_setting_that_is_named_exists() -> None:
    files = [ROOT / ".env.example", *ROOT.glob("docker-compose*.yml"), *ROOT.glob("deploy/*.*")]
    files += (PACKAGE / "cli").glob("*.py")
    known = {name.upper() for name in Settings.model_fields}
    known |= {name for file in files for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", file.read_text())}
    for page, span in SPANS:
        unknown = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", span)) - known
        assert not unknown, f"{page.name}: {span}"


def test_the_architecture_names_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    used = {"core": project["dependencies"], **project["optional-dependencies"], "dev": []}
    for line in (line for lines in used.values() for line in lines):
        assert re.split(r"[^\w.-]", line)[0] in ARCHITECTURE.read_text(), line


def test_every_file_that_is_named_exists() -> None:
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    for page, span in SPANS:
        if re.match(rf"({folders})/[\w./-]*$", span):
            assert (ROOT / span).exists(), f"{page.name}: {span}"


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


async def test_every_path_of_the_api_that_is_named_exists(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/spheroseg.db")
    paths = create_app(Resources(Settings(_env_file=None), engine, None, None)).openapi()["paths"]
    await engine.dispose()
    for page, span in SPANS:
        if match := re.search(r"/api/[\w/{}.-]+", span):
            assert match[0] in {*paths, "/api/live", "/api/openapi.json"}, f"{page.name}: {span}"
