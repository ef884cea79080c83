"""Result versions: the batches of a project that were submitted with the same model, parameters and pixel size."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.segmentation.parameters import with_defaults
from spheroseg.tasks import TaskState


class VersionKey(NamedTuple):
    """The values that all results of a version have in common."""

    model: str
    model_sha256: str | None
    parameters_json: str
    pixel_size_um: float | None


@dataclass(frozen=True)
class ResultVersion:
    """One way in which images of a project were segmented. number: from 1, in the order of first use.

    completed, failed: numbers of tasks. pixel_size_um: given for all images, in µm per pixel.
    """

    number: int
    model: str
    model_sha256: str | None
    parameters: dict[str, Any]
    pixel_size_um: float | None
    first_used_at: datetime
    last_used_at: datetime
    batch_ids: tuple[UUID, ...] = ()
    completed: int = 0
    failed: int = 0

    @property
    def key(self) -> VersionKey:
        return version_key(self.model, self.model_sha256, self.parameters, self.pixel_size_um)


def version_key(
    model: str, model_sha256: str | None, parameters: Mapping[str, Any], pixel_size_um: float | None
) -> VersionKey:
    """Return the key of the version. parameters: with every default filled in."""
    return VersionKey(model, model_sha256, json.dumps(parameters, sort_keys=True), pixel_size_um)


async def read_result_versions(conn: AsyncConnection, project_id: UUID) -> list[ResultVersion]:
    """Return all result versions of a project, the first used one first."""
    counts: dict[UUID, Counter[str]] = {}
    states = (
        select(t.c.batch_id, t.c.state, func.count().label("number"))
        .join(b, b.c.id == t.c.batch_id)
        .where(b.c.project_id == project_id)
        .group_by(t.c.batch_id, t.c.state)
    )
    for row in await conn.execute(states):
        counts.setdefault(row.batch_id, Counter())[row.state] = row.number
    versions: dict[VersionKey, ResultVersion] = {}
    for row in await conn.execute(select(b).where(b.c.project_id == project_id).order_by(b.c.created_at, b.c.id)):
        parameters = with_defaults(row.parameters)
        key = version_key(row.model, row.model_sha256, parameters, row.pixel_size_um)
        version = versions.get(key) or ResultVersion(
            number=len(versions) + 1,
            model=row.model,
            model_sha256=row.model_sha256,
            parameters=parameters,
            pixel_size_um=row.pixel_size_um,
            first_used_at=row.created_at,
            last_used_at=row.created_at,
        )
        batch_counts = counts.get(row.id, Counter())
        versions[key] = replace(
            version,
            last_used_at=row.created_at,
            batch_ids=(*version.batch_ids, row.id),
            completed=version.completed + batch_counts[TaskState.COMPLETED],
            failed=version.failed + batch_counts[TaskState.FAILED],
        )
    return list(versions.values())
