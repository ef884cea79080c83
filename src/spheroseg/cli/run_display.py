"""What `spheroseg run` shows while it works: the plate, a progress bar and the time left."""

import time
from contextlib import ExitStack
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.status import Status

from spheroseg.cli.output import duration
from spheroseg.plate.layout import OFF, PlateLayout
from spheroseg.run.observer import RunObserver
from spheroseg.run.options import Only, RunOptions
from spheroseg.run.plan import RunPlan
from spheroseg.run.process import RunProgress

PRINTED_SHARE = 0.1  # without a terminal: the share of images between two lines


class RunDisplay(RunObserver):
    """A spinner, then a progress bar, then a spinner. Without a terminal: one line per tenth of the images."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = ExitStack()
        self._status: Status | None = None
        self._bar: _Bar | None = None
        self._only: Only | None = None

    def __enter__(self) -> Self:
        self._show_status("Looking for images …")
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def reading(self, read: int, total: int) -> None:
        if self._status:
            self._status.update(f"Reading {read} of {total} files …")

    def planned(self, plan: RunPlan) -> None:
        self._shown.close()
        self._only = plan.options.only
        if plan.excluded:
            self._console.print(f"Images of another channel or z that are left out: {plan.excluded}", highlight=False)
        if plan.layout.is_plate:
            self._console.print(describe_plate(plan.layout, plan.options), highlight=False)

    def left_out(self, count: int) -> None:
        self._console.print(f"Images left out because of --only {self._only}: {count}", highlight=False)

    def progress(self, progress: RunProgress) -> None:
        if self._bar is None:
            self._bar = self._shown.enter_context(_Bar(self._console, progress))
        self._bar.show(progress)

    def writing(self) -> None:
        self._shown.close()
        self._show_status("Writing tables and pictures …")

    def _show_status(self, text: str) -> None:
        self._status = self._shown.enter_context(self._console.status(text))


def describe_plate(layout: PlateLayout, options: RunOptions) -> str:
    """Say in one sentence how the images were placed on a plate."""
    preset = f"read as {layout.preset}" + (" (best guess)" if layout.is_guessed else "")
    curves = len(
        {(position.plate, position.well_or_sample) for position in layout.positions if position.well_or_sample}
    )
    times = {position.time_point if position.time_h is None else position.time_h for position in layout.positions} - {
        None
    }
    parts = [f"{curves} {'wells' if layout.plates else 'samples'}", f"{len(times)} times" if times else "no times"]
    if options.plate.conditions_file:
        parts.append(f"conditions from {options.plate.conditions_file}")
    return (
        f"File names describe a plate, {escape(preset)}: {', '.join(map(escape, parts))}. "
        f"Use --plate {OFF} to ignore this."
    )


class _Bar:
    """A progress bar on a terminal, else printed lines."""

    def __init__(self, console: Console, progress: RunProgress) -> None:
        self._console = console
        self._finished_before = progress.completed + progress.failed
        self._first_finished_at: float | None = None
        self._printed_share = -1.0
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._row = self._bar.add_task("", total=progress.total, failed="", left="")
        if progress.completed:
            console.print(f"Continuing: {progress.completed} of {progress.total} are completed already.")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: RunProgress) -> None:
        finished = progress.completed + progress.failed
        failed = f"{progress.failed} failed" if progress.failed else ""
        left = self._time_left(finished, progress.total)
        self._bar.update(self._row, completed=finished, failed=f"[red]{failed}[/]" if failed else "", left=left)
        if self._console.is_terminal or not progress.total:
            return
        share = finished / progress.total
        if share > self._printed_share and (share >= self._printed_share + PRINTED_SHARE or share == 1):
            self._console.print(", ".join(filter(None, [f"{finished} of {progress.total} done", failed, left])))
            self._printed_share = share

    def _time_left(self, finished: int, total: int) -> str:
        new = finished - self._finished_before
        if not new or finished == total:
            return ""
        if self._first_finished_at is None:
            # Count from the first finished image, because the time before it was spent on starting up.
            self._first_finished_at, self._finished_before = time.monotonic(), finished
            return ""
        seconds = (time.monotonic() - self._first_finished_at) / new * (total - finished)
        return f"about {duration(seconds)} left"
