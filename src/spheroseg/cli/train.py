"""`spheroseg model train`: train a network on labelled images and simulated scenes."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from spheroseg.cli.evaluate import DATA
from spheroseg.errors import ModelUnusable

if TYPE_CHECKING:
    from spheroseg.training.course import Course

STEPS_BETWEEN_LINES = 100  # without a terminal


def train(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder for the model. The name of the folder becomes the name of the model."
        ),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with manifest.csv and the images that it lists.")
    ] = DATA,
    version: Annotated[str, typer.Option(metavar="TEXT", help="Version of the model.")] = "1",
    steps: Annotated[
        int, typer.Option(metavar="N", min=25, help="Training steps of the base network, on simulated scenes only.")
    ] = 3000,
    tuning: Annotated[
        int,
        typer.Option(
            metavar="N", min=25, help="Fine-tuning steps of the final network and of the network of each fold."
        ),
    ] = 250,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=16,
            help="Number of processes that share each step of the base. It changes the resulting network.",
        ),
    ] = 2,
    folds: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=36, help="Number of folds of the cross-validation on spheroids, or 0."),
    ] = 3,
    scenes: Annotated[int, typer.Option(metavar="N", min=9, help="Number of scenes to simulate.")] = 3400,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random seed. The same seed gives the same crops.")
    ] = 1,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of networks to train at the same time, one core each. By default all cores.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu or cuda. By default a GPU if there is one.")
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also keep the base and the networks of the folds in DIR, each as a model."),
    ] = None,
) -> None:
    """Train a network and write it to FOLDER, with its recipe and its measured quality.

    Needs PyTorch: pip install 'spheroseg[train]'. With the defaults it takes an hour and a half on two processor
    cores.
    """
    if find_spec("torch") is None or find_spec("onnxscript") is None:
        raise ModelUnusable("training needs PyTorch, which is not installed here: pip install 'spheroseg[train]'")
    from spheroseg.training.course import Course, make
    from spheroseg.training.train import Recipe

    recipe = Recipe(steps=steps, tuning=tuning, processes=processes, scenes=scenes, seed=seed, device=device)
    course = Course(folder.absolute().name, version, data, recipe, folds, parts=parts)
    with _Bars(course) as bars:
        make(course, folder, jobs or os.cpu_count() or 1, bars.tell)
    print(f"The model is in {folder}. Check it with `spheroseg model check {folder}`.")


class _Bars:
    """A progress bar per network on a terminal, else printed lines."""

    def __init__(self, course: "Course") -> None:
        self._course = course
        console = Console(stderr=True)
        self._terminal = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._terminal,
        )
        names = ["shipped", *(f"fold {fold}" for fold in range(1, course.folds + 1))]
        self._rows = {"base": self._bars.add_task("base", total=course.recipe.steps)} | {
            name: self._bars.add_task(name, total=course.recipe.tuning) for name in names
        }

    def __enter__(self) -> "_Bars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def tell(self, name: str, step: int, loss: float) -> None:
        self._bars.update(self._rows[name], completed=step, description=f"{name}, loss {loss:.3f}")
        if not self._terminal and step % STEPS_BETWEEN_LINES == 0:
            typer.echo(f"{name}: step {step}, loss {loss:.3f}", err=True)
