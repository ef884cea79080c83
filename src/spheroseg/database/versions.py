"""Result versions: what was segmented more than once is kept once for each way of doing it."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.schema import segmentation_batches as b
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.segmentation.parameters import with_defaults
from spheroseg.tasks import TaskState


@dataclass(frozen=True)
class ResultVersion:
    """One way in which images of a project were segmented, numbered from 1 in the order of first use.

    `completed` and `failed` count tasks. `pixel_size_um` is what was given for all images, in µm.
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
    def key(self) -> tuple[Any, ...]:
        return version_key(self.model, self.model_sha256, self.parameters, self.pixel_size_um)


def version_key(
    model: str, model_sha256: str | None, parameters: Mapping[str, Any], pixel_size_um: float | None
) -> tuple[Any, ...]:
    """What two results of one version have in common."""
    return (model, model_sha256, json.dumps(parameters, sort_keys=True), pixel_size_um)


async def result_versions(conn: AsyncConnection, project_id: UUID) -> list[ResultVersion]:
    """All of a project. Two batches that were asked for alike are one version."""
    counts: dict[UUID, Counter[str]] = {}
    states = (
        select(t.c.batch_id, t.c.state, func.count().label("number"))
        .join(b, b.c.id == t.c.batch_id)
        .where(b.c.project_id == project_id)
        .group_by(t.c.batch_id, t.c.state)
    )
    for row in await conn.execute(states):
        counts.setdefault(row.batch_id, Counter())[row.state] = row.number
    versions: dict[tuple[Any, ...], ResultVersion] = {}
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
        of_batch = counts.get(row.id, Counter())
        versions[key] = replace(
            version,
            last_used_at=row.created_at,
            batch_ids=(*version.batch_ids, row.id),
            completed=version.completed + of_batch[TaskState.COMPLETED],
            failed=version.failed + of_batch[TaskState.FAILED],
        )
    return list(versions.values())
