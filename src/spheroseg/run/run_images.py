"""The Python function that does what `spheroseg run` does."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from spheroseg.errors import BadParameters, StorageUnusable
from spheroseg.export.formats import ExportFormat
from spheroseg.plate.options import PlateOptions
from spheroseg.run.execute import execute_run
from spheroseg.run.observer import RunObserver
from spheroseg.run.options import Only, RunOptions
from spheroseg.run.plan import RunPlan, plan_run
from spheroseg.run.plate_layout import read_conditions_file
from spheroseg.run.process import RunProgress
from spheroseg.run.result import RunResult
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.planes import NO_CHOICE, PlaneChoice
from spheroseg.settings import Settings, read_settings

AnyPath = str | PathLike[str]
T = TypeVar("T", ExportFormat, Only)


def run_images(
    paths: AnyPath | Iterable[AnyPath],
    out: AnyPath,
    *,
    model: str | None = None,
    parameters: Parameters | None = None,
    pixel_size_um: float | None = None,
    workers: int | None = None,
    exports: Iterable[ExportFormat | str] = (ExportFormat.ROIS,),
    planes: PlaneChoice = NO_CHOICE,
    only: Only | str | None = None,
    plate: PlateOptions | None = None,
    conditions: AnyPath | None = None,
    progress: Callable[[RunProgress], None] | None = None,
    settings: Settings | None = None,
) -> RunResult:
    """Segment images and measure the spheroids in them, as `spheroseg run` does, and return what came of it.

    Images that an earlier call with the same `out`, model, parameters and pixel size has completed are not segmented
    again. So a call that was interrupted continues where it stopped, and added images are segmented too. One image
    that cannot be read does not stop the others: look at `RunResult.failed`.

    Works in scripts and in notebooks: where an event loop is running already, the work is done in another thread, and
    this function returns when all images are finished. Ctrl-C raises KeyboardInterrupt; call again to continue.

    Args:
        paths: images, folders of images and zip archives (PNG, JPEG, BMP, TIFF), one or several.
        out: the folder for the results. It is created if it does not exist.
        model: a name of `spheroseg model list`. By default the one in the settings, or the one shipped.
        parameters: which objects to keep and where their outline runs.
        pixel_size_um: µm per pixel of all images. By default the pixel size that each file states, if any.
        workers: the number of images segmented at the same time. By default the number of processor cores.
        exports: files to write for other programs: `rois`, `geojson`, `coco`, `bundle`.
        planes: which time point, z plane and channel of a stack to use.
        only: `failed` or `changed`, to repeat only that part of an earlier run.
        plate: how names are read as wells and times, and what growth curves are made of.
        conditions: a CSV table of what is in each well. By default the conditions.csv in the folder of the images.
        progress: called in the thread that does the work, several times a second, with the numbers of images that
            are completed, failed and there in all.
        settings: by default those of the environment and the .env file.

    Returns:
        The outcome of each image with its measurements (in px, and in µm if the pixel size is known), growth rows of
        a plate, and the paths of all tables.

    Raises:
        UnreadableInput: a path does not exist, or no image is found.
        BadParameters, BadPlate, ModelUnusable, BadSettings: an argument or a setting cannot be used.
        OutputUnusable, RunInUse: `out` cannot be written to, or another run is writing to it.
        StorageUnusable, OSError: the disk is full or failing. What was finished is kept: call again to continue.

    Example:
        >>> from spheroseg import run_images
        >>> result = run_images("examples/plate", "results")
        >>> len(result.completed), result.growth.tables.wells[0]["volume_um3"]
    """
    settings = settings or read_settings()
    options = RunOptions(
        out=Path(out),
        model=find_model(model or settings.model or DEFAULT_MODEL, settings.model_folders),
        parameters=parameters or Parameters(),
        pixel_size_um=pixel_size_um,
        workers=settings.worker_concurrency if workers is None else workers,
        exports=frozenset(_member(ExportFormat, name, "exports") for name in exports),
        choice=planes,
        only=None if only is None else _member(Only, only, "only"),
        plate=_with_conditions(plate or PlateOptions(), conditions),
    )
    observer = _ProgressOnly(progress)
    plan = plan_run(_paths(paths), options, observer)
    return _run_in_any_thread(plan, settings, observer)


class _ProgressOnly(RunObserver):
    def __init__(self, show: Callable[[RunProgress], None] | None) -> None:
        self._show = show

    def progress(self, progress: RunProgress) -> None:
        if self._show:
            self._show(progress)


def _paths(paths: AnyPath | Iterable[AnyPath]) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | PathLike) else [Path(path) for path in paths]


def _member(kind: type[T], name: str, argument: str) -> T:
    try:
        return kind(name)
    except ValueError:
        raise BadParameters(f"{argument} has {name!r}; it must be one of {', '.join(kind)}") from None


def _with_conditions(plate: PlateOptions, conditions: AnyPath | None) -> PlateOptions:
    if conditions is None:
        return plate
    path = Path(conditions)
    return replace(plate, conditions=tuple(read_conditions_file(path)), conditions_file=path.name)


def _run_in_any_thread(plan: RunPlan, settings: Settings, observer: RunObserver) -> RunResult:
    """Run in this thread, or in another one if an event loop is running in this one, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run(plan, settings, observer, _Stop()))
    stop = _Stop()
    with ThreadPoolExecutor(max_workers=1) as pool, _keyboard_interrupts():
        running = pool.submit(asyncio.run, _run(plan, settings, observer, stop))
        try:
            return running.result()
        except KeyboardInterrupt:
            # Leaving the pool waits until the images that are being segmented are finished.
            stop.request()
            raise


@contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt here. Inside `asyncio.run` it would only take effect after this call."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Stop:
    """Asks a run in another thread to stop."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def request(self) -> None:
        if self.loop:
            self.loop.call_soon_threadsafe(self.event.set)


async def _run(plan: RunPlan, settings: Settings, observer: RunObserver, stop: _Stop) -> RunResult:
    stop.loop = asyncio.get_running_loop()
    try:
        return await execute_run(plan, settings, stop.event, observer)
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StorageUnusable(
            f"the database in {plan.options.out} does not work ({cause}): fix the problem and call again to continue"
        ) from error
