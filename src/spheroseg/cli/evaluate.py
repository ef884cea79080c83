"""`spheroseg model evaluate`: score models on images with known objects."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from spheroseg.errors import DataAway
from spheroseg.segmentation.classical import NAME as CLASSICAL
from spheroseg.segmentation.model import DEFAULT_MODEL, Model, load_model
from spheroseg.settings import read_settings

if TYPE_CHECKING:
    from spheroseg.training.data import Sample
    from spheroseg.training.scores import Score, Summary

KIND_SEPARATOR = ": "
DATA = Path("../shared/data")
Source = tuple[str, str, str, str]  # set, source, licence, what the masks contain
COLUMNS = ("set", "model", "n", "mean IoU", "median", "worst", "picture", "F1", "objects", "CPU s/image")


def evaluate(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Models, or otsu and sauvola. By default the default model, classical-contrast, otsu and sauvola.",
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with manifest.csv and the images that it lists.")
    ] = DATA,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME",
            help="Only this set. Can be given several times. A folder of the data, scenes (simulated), fields (many "
            "spheroids of the data in one image), sizes (one spheroid, from small to wider than the image), or "
            "unlabelled (no scores, for --overlays). By default all but unlabelled.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Maximum number of images per set.")] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=256, help="Number of processes. By default all cores.")
    ] = None,
    by_kind: Annotated[
        bool, typer.Option("--by-kind", help="Also print a row for each kind of image in a set.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all scores of all images to a JSON file.")
    ] = None,
    overlays: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write images with the true outlines in blue and those of the model in amber."
        ),
    ] = None,
) -> None:
    """Score models on images with known objects, and compare them in a table.

    IoU: number of pixels in both the found and the true objects, divided by the number of pixels in either. F1: of
    objects that overlap a true object with an IoU of at least 0.5. It is marked with ~ if the true masks do not
    separate objects, so that connected areas are compared instead. Rows named "largest" keep only the largest object,
    for sets with one object per image.
    """
    # These load SciPy, which takes half a second.
    from spheroseg.training.baselines import BASELINES
    from spheroseg.training.evaluate import evaluate as run
    from spheroseg.training.evaluate import summaries

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {json_file.parent}: create it first", param_hint="--json")
    settings = read_settings()
    chosen = names or dict.fromkeys((settings.model or DEFAULT_MODEL, CLASSICAL, *BASELINES))
    factories: dict[str, Callable[[], Model]] = {
        name: BASELINES[name] if name in BASELINES else partial(load_model, name, settings.model_folders)
        for name in chosen
    }
    loaded = {name: make() for name, make in factories.items()}
    total, samples = _samples(data, sets or [], limit)
    sources: dict[Source, None] = {}
    scored = run(_noted(samples, sources), factories, jobs or os.cpu_count() or 1, overlays)
    scores = [score for image_scores in _with_bar(scored, total) for score in image_scores]
    kinds = [replace(score, set=f"{score.set}{KIND_SEPARATOR}{score.kind}") for score in scores] if by_kind else []
    rows = summaries([*scores, *kinds])
    if json_file is not None:
        report = _report(loaded, sources, rows, scores)
        json_file.write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    _show(rows, {set_: truth for set_, _, _, truth in sources})


def _samples(data: Path, sets: Sequence[str], limit: int | None) -> "tuple[int, Iterator[Sample]]":
    """Return the number of samples and an iterator over them."""
    from spheroseg.training.composed import (
        TEST_FIELDS,
        TEST_SIZES,
        can_be_cut,
        cut_spheroids,
        field_samples,
        size_samples,
    )
    from spheroseg.training.data import FIELDS, SCENES, SIZES, TEST_SCENES, read_samples, scene_samples

    def count_of(kind: str, available: int) -> int:
        return min(limit or available, available) if kind in sets or not sets else 0

    composed = {FIELDS: count_of(FIELDS, TEST_FIELDS), SIZES: count_of(SIZES, TEST_SIZES)}
    filed = [name for name in sets if name != SCENES and name not in composed]
    filed_samples = read_samples(data, filed) if filed or not sets else []
    groups = [list(group) for _, group in itertools.groupby(filed_samples, lambda sample: sample.set)]
    real = [sample for group in groups for sample in group[:limit]]
    drawn = count_of(SCENES, TEST_SCENES)
    spheroids = [sample for sample in read_samples(data) if can_be_cut(sample)] if any(composed.values()) else []
    if not cut_spheroids(spheroids):
        for name in composed:
            if name in sets:
                raise DataAway(
                    f"no brightfield spheroid in {data} is round and has background beside it, which {name} needs: "
                    f"leave --set {name} out"
                )
        composed = dict.fromkeys(composed, 0)
    total = len(real) + drawn + sum(composed.values())
    made = field_samples(spheroids, composed[FIELDS]), size_samples(spheroids, composed[SIZES])
    return total, itertools.chain(real, scene_samples(drawn), *made)


def _noted(samples: "Iterable[Sample]", sources: dict[Source, None]) -> "Iterator[Sample]":
    for sample in samples:
        sources[sample.set, sample.source, sample.licence, sample.truth.value] = None
        yield sample


def _with_bar(scored: "Iterable[list[Score]]", total: int) -> "Iterator[list[Score]]":
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        row = bar.add_task("", total=total)
        for image_scores in scored:
            bar.update(row, advance=1, description=image_scores[0].set)
            yield image_scores


def _report(
    models: dict[str, Model],
    sources: Iterable[Source],
    rows: "Sequence[Summary]",
    scores: "Sequence[Score]",
) -> dict[str, Any]:
    return {
        "models": [{"name": m.name, "version": m.version, "sha256": m.sha256} for m in models.values()],
        "data": [dict(zip(("set", "source", "licence", "truth"), source, strict=True)) for source in sources],
        "sets": [asdict(row) for row in rows],
        "pictures": [asdict(score) for score in scores],
    }


def _show(rows: "Sequence[Summary]", truths: dict[str, str]) -> None:
    """Print a table on a terminal, else Markdown."""
    cells = [_cells(row, truths[row.set.partition(KIND_SEPARATOR)[0]]) for row in rows]
    console = Console()
    if not console.is_terminal:
        for line in (COLUMNS, ["---", "---", *["---:"] * 4, "---", *["---:"] * 3], *cells):
            print(f"| {' | '.join(line)} |")
        return
    table = Table(show_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(
            name,
            justify="left" if name in ("set", "model", "picture") else "right",
            overflow="fold",
            no_wrap=name == "model",
        )
    for row, line, after in zip(rows, cells, [*rows[1:], None], strict=True):
        table.add_row(*line, end_section=after is not None and (after.set, after.kept) != (row.set, row.kept))
    console.print(table)


def _cells(row: "Summary", truth: str) -> list[str]:
    # In such masks, objects that touch are one connected area.
    about = "~" if truth == "union" else ""
    return [
        row.set if row.kept == "all" else f"{row.set}, {row.kept}",
        row.model,
        str(row.pictures),
        *(_share(value) for value in (row.mean, row.median, row.worst)),
        Path(row.worst_name).name if row.worst_name else "",
        about + _share(row.f1) if row.f1 is not None else "",
        str(row.objects),
        f"{row.seconds:.3f}",
    ]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
