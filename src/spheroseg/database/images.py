"""Images as people upload, list and look at them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime
from spheroseg.database.projects import visible_to
from spheroseg.database.schema import images as i
from spheroseg.database.schema import projects
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.errors import NotFound

# For `list_images`: those that no task was ever made for.
NO_TASK = "none"


@dataclass(frozen=True)
class Upload:
    """A file with `pages` pictures, in the storage already."""

    name: str
    storage_key: str
    sha256: str
    size_bytes: int
    pages: int


@dataclass(frozen=True)
class Uploaded:
    """is_new: False where the project had this picture already, under whatever name."""

    id: UUID
    page: int
    is_new: bool


async def add_upload(conn: AsyncConnection, user_id: UUID, project_id: UUID, upload: Upload) -> list[Uploaded]:
    """An image for each page. What the project has already stays as it is.

    Raises NotFound where there is no such project, or not for that user.
    """
    # Two that upload the same at the same moment: the second waits here, and finds what the first has made.
    # Batches are not held up, for they only share the project's key.
    project = (
        select(projects.c.id)
        .where(projects.c.id == project_id, visible_to(user_id, projects.c.id))
        .with_for_update(key_share=True)
    )
    if (await conn.execute(project)).first() is None:
        raise NotFound("there is no such project")
    same = select(i.c.page, i.c.id).where(
        i.c.project_id == project_id, i.c.sha256 == upload.sha256, i.c.storage_key == upload.storage_key
    )
    known: dict[int, UUID] = {row.page: row.id for row in await conn.execute(same)}
    new = {page: uuid.uuid7() for page in range(upload.pages) if page not in known}
    if new:
        now = (await conn.execute(select(DatabaseTime()))).scalar_one()
        await conn.execute(
            insert(i),
            [
                {
                    "id": id_,
                    "project_id": project_id,
                    "name": upload.name,
                    "page": page,
                    "storage_key": upload.storage_key,
                    "sha256": upload.sha256,
                    "size_bytes": upload.size_bytes,
                    "created_at": now,
                }
                for page, id_ in new.items()
            ],
        )
    return [Uploaded((known | new)[page], page, page in new) for page in range(upload.pages)]


def _images_seen_by(user_id: UUID) -> Any:
    any_task = t.alias()
    newest = (
        select(any_task.c.id)
        .where(any_task.c.image_id == i.c.id)
        .order_by(any_task.c.id.desc())
        .limit(1)
        .correlate(i)
        .scalar_subquery()
    )
    return (
        select(i, t.c.id.label("task_id"), t.c.state)
        .select_from(i)
        .outerjoin(t, t.c.id == newest)
        .where(visible_to(user_id, i.c.project_id))
    )


async def read_image(conn: AsyncConnection, user_id: UUID, image_id: UUID) -> Any:
    """Its row, with `task_id` and `state` of its newest task. Raises NotFound, also where it is not for that user."""
    row = (await conn.execute(_images_seen_by(user_id).where(i.c.id == image_id))).first()
    if row is None:
        raise NotFound("there is no such image")
    return row


async def list_images(
    conn: AsyncConnection,
    user_id: UUID,
    project_id: UUID,
    limit: int,
    after: UUID | None = None,
    *,
    name: str | None = None,
    state: str | None = None,
) -> Sequence[Any]:
    """Rows like `read_image`'s: a project's images with an id above `after`, at most `limit` of them.

    name: part of it, in capitals or not. state: of the newest task, or NO_TASK.
    """
    wanted = select(i.c.id).where(i.c.project_id == project_id)
    if after is not None:
        wanted = wanted.where(i.c.id > after)
    if name:
        wanted = wanted.where(i.c.name.icontains(name, autoescape=True))
    query = _images_seen_by(user_id).order_by(i.c.id).limit(limit)
    if state is None:
        # The newest tasks of one page are looked up, not those of the whole project.
        return (await conn.execute(query.where(i.c.id.in_(wanted.order_by(i.c.id).limit(limit))))).all()
    query = query.where(t.c.id.is_(None) if state == NO_TASK else t.c.state == state)
    return (await conn.execute(query.where(i.c.id.in_(wanted)))).all()
