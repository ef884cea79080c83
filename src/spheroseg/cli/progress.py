"""How far a run is, and how long it takes still."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from spheroseg.run.process import Progress as RunProgress


class Bar:
    """Progress on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.first: int | None = None
        self.began: float | None = None
        self.printed = -1.0
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.row = self.bar.add_task("", total=total, failed="", left="")

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, progress: RunProgress) -> None:
        done = progress.completed + progress.failed
        if self.first is None:
            self.first = done
            if progress.completed:
                self.console.print(f"Going on: {progress.completed} of {progress.total} are completed already.")
        failed = f"{progress.failed} failed" if progress.failed else ""
        left = self._left(done)
        self.bar.update(self.row, completed=done, failed=f"[red]{failed}[/]" if failed else "", left=left)
        share = done / progress.total
        if not self.console.is_terminal and (share >= self.printed + 0.1 or done == progress.total != 0):
            if share > self.printed:
                self.console.print(", ".join(filter(None, [f"{done} of {progress.total} done", failed, left])))
            self.printed = share

    def _left(self, done: int) -> str:
        assert self.first is not None
        new = done - self.first
        if not new or done == self.total:
            return ""
        if self.began is None:
            # From the first image that is finished: what came before was starting up.
            self.began, self.first = time.monotonic(), done
            return ""
        seconds = (time.monotonic() - self.began) / new * (self.total - done)
        return f"about {duration(seconds)} left"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
