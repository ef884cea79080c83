"""Read which result versions the folder of a run holds."""

from pathlib import Path

from spheroseg.database.engine import open_engine, reading
from spheroseg.database.runs import find_project
from spheroseg.database.versions import ResultVersion, result_versions
from spheroseg.errors import OutputUnusable
from spheroseg.run.folder import DATABASE, PROJECT
from spheroseg.run.inputs import STATE_FOLDER


async def read_versions(out: Path) -> list[ResultVersion]:
    """The result versions in the folder of a run. Raises OutputUnusable where no run has been."""
    database = out / STATE_FOLDER / DATABASE
    if not database.is_file():
        raise OutputUnusable(f"no run has written to {out}: name the folder that was given to --out")
    engine = open_engine(f"sqlite:///{database}")
    try:
        async with reading(engine) as conn:
            project_id = await find_project(conn, PROJECT)
            return await result_versions(conn, project_id) if project_id else []
    finally:
        await engine.dispose()
