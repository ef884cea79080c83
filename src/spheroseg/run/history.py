"""Read the result versions of a run from its output folder."""

from pathlib import Path

from spheroseg.database.engine import open_engine, reading
from spheroseg.database.runs import find_project
from spheroseg.database.versions import ResultVersion, read_result_versions
from spheroseg.errors import OutputUnusable
from spheroseg.run.folder import DATABASE, PROJECT
from spheroseg.run.output_names import STATE_FOLDER


async def read_versions(out: Path) -> list[ResultVersion]:
    """Return the result versions in an output folder. Raise OutputUnusable if no run has written to it."""
    database = out / STATE_FOLDER / DATABASE
    if not database.is_file():
        raise OutputUnusable(f"no run has written to {out}: name the folder that was given to --out")
    engine = open_engine(f"sqlite:///{database}")
    try:
        async with reading(engine) as conn:
            project_id = await find_project(conn, PROJECT)
            return await read_result_versions(conn, project_id) if project_id else []
    finally:
        await engine.dispose()
