"""`spheroseg model`: which models there are, what is known of them, and whether one can be used."""

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

model_app = typer.Typer(no_args_is_help=True, help="Models: those shipped, and your own.")


@model_app.command(name="list")
def list_models(as_json: Json = False) -> None:
    """Show all models: the built-in one, those shipped, those in the folders of MODEL_DIRS."""
    settings = read_settings()
    for place in settings.model_folders:
        if not place.is_dir():
            Console(stderr=True).print(f"MODEL_DIRS names {place}, which is no folder", style="yellow")
    wanted = settings.model or DEFAULT_MODEL
    rows = [
        {
            "name": model.name,
            "version": model.version,
            "sha256": model.sha256 if as_json else model.sha256[:12],
            "licence": model.licence,
            "default": (model.name == wanted) if as_json else "default" if model.name == wanted else "",
            "where": str(model.folder or "built in"),
            "fault": model.fault,
        }
        for model in known_models(settings.model_folders)
    ]
    columns = ["name", "version", "sha256", "licence", "default", "where", "fault"]
    print_rows(rows, columns, as_json=as_json, nothing="No models.")


@model_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `spheroseg model list`.")],
    as_json: Json = False,
) -> None:
    """Show all that is known of a model: its hashes, what it takes and gives, its training, its quality."""
    model = find_model(name, read_settings().model_folders)
    known = _all_of(model)
    if as_json:
        print_json(known)
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in _lines(known):
        console.print(line)


def _all_of(model: KnownModel) -> dict[str, Any]:
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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With model.json and model.onnx.")],
    as_json: Json = False,
) -> None:
    """Try whether a model folder can be used: all that its model.json promises, on pictures. Takes some seconds.

    Exit code: 0 it can, 1 it cannot.
    """
    # Not before it is wanted: it loads what every other command does without.
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
        console.print("It can be used: put the folder into one of MODEL_DIRS, then name it with --model.")


model_app.command()(evaluate)
model_app.command()(train)
