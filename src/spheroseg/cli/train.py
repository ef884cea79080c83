"""`spheroseg model train`: a network from labelled pictures and drawn scenes."""

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

EVERY = 100  # steps between two lines where there is no terminal


def train(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the model goes; its last part is the model's name.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with manifest.csv and the pictures that it names.")
    ] = DATA,
    version: Annotated[str, typer.Option(metavar="TEXT", help="Version of the model.")] = "1",
    steps: Annotated[
        int, typer.Option(metavar="N", min=25, help="Steps of the base, which sees no spheroid.")
    ] = 3000,
    tuning: Annotated[
        int, typer.Option(metavar="N", min=25, help="Steps from there of the shipped network, and of each fold's.")
    ] = 250,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=16,
            help="Processes that share each step of the base; another number is another network.",
        ),
    ] = 2,
    folds: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=36, help="Networks of the cross-validation on spheroids; 0 for none."),
    ] = 3,
    scenes: Annotated[int, typer.Option(metavar="N", min=9, help="Scenes that are drawn to cut from.")] = 3400,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same crops.")] = 1,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Networks at the same time, a core each; by default the cores."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu or cuda; by default a GPU where there is one.")
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the base and the networks of the folds there, each as a model."),
    ] = None,
) -> None:
    """Train a network and write it into FOLDER, with its recipe and its measured quality.

    Needs PyTorch: pip install 'spheroseg[train]'. On two cores of a processor the defaults take an hour
    and a half.
    """
    if find_spec("torch") is None or find_spec("onnxscript") is None:
        raise ModelUnusable("training needs PyTorch, which is not installed here: pip install 'spheroseg[train]'")
    from spheroseg.training.course import Course, make
    from spheroseg.training.train import Recipe

    recipe = Recipe(steps=steps, tuning=tuning, processes=processes, scenes=scenes, seed=seed, device=device)
    course = Course(folder.absolute().name, version, data, recipe, folds, parts=parts)
    with _Bars(course) as bars:
        make(course, folder, jobs or os.cpu_count() or 1, bars.tell)
    print(f"{folder}: look at it with `spheroseg model show`, try it with `spheroseg model check {folder}`")


class _Bars:
    """A bar for each network on a terminal, else a line now and then."""

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
        if not self._terminal and step % EVERY == 0:
            typer.echo(f"{name}: step {step}, loss {loss:.3f}", err=True)
