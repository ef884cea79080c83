"""Carry out a planned run: queue its images, segment them in child processes, write the results."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

import structlog

from spheroseg.errors import OutputUnusable
from spheroseg.logs import log_to
from spheroseg.run.folder import open_run, run_folder
from spheroseg.run.observer import RunObserver
from spheroseg.run.options import RunOptions
from spheroseg.run.outputs import write_outputs
from spheroseg.run.plan import RunPlan
from spheroseg.run.prepare import prepare
from spheroseg.run.process import process
from spheroseg.run.result import RunResult
from spheroseg.settings import Settings


async def execute_run(plan: RunPlan, settings: Settings, stopping: asyncio.Event, observer: RunObserver) -> RunResult:
    """Segment the images of `plan` and write tables, pictures and exports into its output folder.

    stopping: set it to stop early. The images that are being segmented are finished first, and the results so far
    are written. The same run continues from there.

    Raise RunInUse and OutputUnusable as `run_folder` does, and OutputUnusable if `only` leaves nothing to do. OSError
    and SQLAlchemyError mean that the disk is full or failing: what was finished before is kept.
    """
    options = plan.options
    with run_folder(options), _run_log(options) as log:
        engine = open_run(options)
        try:
            inputs, task_ids, version = await prepare(engine, options, plan.listing.inputs)
            if not inputs:
                raise OutputUnusable(
                    f"nothing in {options.out} was segmented with these options before: leave out --only, or see "
                    f"`spheroseg history {options.out}`"
                )
            layout, listing = plan.layout, replace(plan.listing, inputs=inputs)
            if len(inputs) < len(plan.listing.inputs):
                observer.left_out(len(plan.listing.inputs) - len(inputs))
                kept = set(inputs)
                layout = layout.select([number for number, item in enumerate(plan.listing.inputs) if item in kept])
            await process(engine, options, settings, task_ids, stopping, observer.progress, log)
            observer.writing()
            return await write_outputs(engine, options, listing, task_ids, layout, version)
        finally:
            await engine.dispose()


@contextmanager
def _run_log(options: RunOptions) -> Iterator[TextIO]:
    """Write the log of this process, and what the child processes print, to the run's own log file."""
    before = structlog.get_config()
    with (options.state_dir / "run.log").open("a") as log:
        log_to(log)
        try:
            yield log
        finally:
            structlog.configure(**before)
