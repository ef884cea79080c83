"""`spheroseg model`: list, show, check, evaluate and train models."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from spheroseg.cli.evaluate import evaluate
from spheroseg.cli.output import Json, print_json, print_rows
from spheroseg.cli.train import train
from spheroseg.segmentation.model import DEFAULT_MODEL, KnownModel, find_model, known_models
from spheroseg.settings import read_settings

model_app = typer.Typer(no_args_is_help=True, help="List, check, evaluate and train models.")


@model_app.command(name="list")
def list_models(as_json: Json = False) -> None:
    """List all models: the built-in one, the shipped ones, and those in the folders of MODEL_DIRS."""
    settings = read_settings()
    for folder in settings.model_folders:
        if not folder.is_dir():
            Console(stderr=True).print(f"MODEL_DIRS names {folder}, which is not a folder", style="yellow")
    default = settings.model or DEFAULT_MODEL
    rows = [
        {
            "name": model.name,
            "version": model.version,
            "sha256": model.sha256 if as_json else model.sha256[:12],
            "licence": model.licence,
            "default": (model.name == default) if as_json else "default" if model.name == default else "",
            "where": str(model.folder or "built in"),
            "fault": model.fault,
        }
        for model in known_models(settings.model_folders)
    ]
    columns = ["name", "version", "sha256", "licence", "default", "where", "fault"]
    print_rows(rows, columns, as_json=as_json, if_empty="No models.")


@model_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a model, see `spheroseg model list`.")],
    as_json: Json = False,
) -> None:
    """Show everything about a model: hashes, inputs and outputs, training data and measured quality."""
    model = find_model(name, read_settings().model_folders)
    details = _details(model)
    if as_json:
        print_json(details)
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in _lines(details):
        console.print(line)


def _details(model: KnownModel) -> dict[str, Any]:
    known: dict[str, Any] = {
        "name": model.name,
        "version": model.version,
        "licence": model.licence,
        "where": str(model.folder or "built in"),
        "sha256": model.sha256,
    }
    if model.card is None:
        return known
    rest = model.card.model_dump(exclude={"format", *known}, exclude_none=True)
    return {**known, "model.onnx sha256": model.network_sha256, **rest}


def _lines(values: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    indent = "  " * depth
    for name, value in values.items():
        label = f"{indent}[bold]{escape(str(name).replace('_', ' '))}[/]"
        if isinstance(value, Mapping):
            yield label
            yield from _lines(value, depth + 1)
        elif _is_list(value) and any(isinstance(entry, Mapping) for entry in value):
            yield label
            for number, entry in enumerate(value, start=1):
                yield from _lines(entry if isinstance(entry, Mapping) else {str(number): entry}, depth + 1)
        else:
            yield f"{label}  {escape(', '.join(map(str, value)) if _is_list(value) else str(value))}"


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


@model_app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with model.json and model.onnx.")],
    as_json: Json = False,
) -> None:
    """Check that a model folder can be used: test everything that its model.json states. Takes some seconds.

    Exit codes: 0 it can be used, 1 it cannot.
    """
    # Loaded here because no other command needs it.
    from spheroseg.segmentation.model.check import check_model

    console = Console(highlight=False, soft_wrap=True)
    results = []
    for result in check_model(folder):
        results.append(result)
        if not as_json:
            mark = "[green]ok  [/]" if result.is_ok else "[bold red]FAIL[/]"
            console.print(f"{mark}  {result.name}: {escape(result.detail)}")
            if result.remedy:
                console.print(f"      [cyan]→[/] {escape(result.remedy)}")
    if as_json:
        print_json(
            [{"name": r.name, "ok": r.is_ok, "what": r.detail, "what_to_do": r.remedy or None} for r in results]
        )
    if not all(result.is_ok for result in results):
        raise typer.Exit(1)
    if not as_json:
        console.print("The model can be used: put its folder into one of MODEL_DIRS, then name it with --model.")


model_app.command()(evaluate)
model_app.command()(train)
