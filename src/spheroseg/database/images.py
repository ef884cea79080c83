"""The images of a project: add an upload, list them, read one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import read_database_time
from spheroseg.database.projects import visible_to
from spheroseg.database.schema import images as i
from spheroseg.database.schema import projects
from spheroseg.database.schema import segmentation_tasks as t
from spheroseg.errors import NotFound
from spheroseg.tasks import TaskState

# A filter of `list_images`: only images that never had a task.
NO_TASK = "none"


@dataclass(frozen=True)
class Upload:
    """A file with `pages` pages that is in the storage already."""

    name: str
    storage_key: str
    sha256: str
    size_bytes: int
    pages: int


@dataclass(frozen=True)
class UploadedPage:
    """The image of one page. is_new: False if the project had it already, under whatever name."""

    id: UUID
    page: int
    is_new: bool


class StoredImage(NamedTuple):
    """An image, with the id and the state of its newest task. size_bytes: of the whole file, if it is known."""

    id: UUID
    project_id: UUID
    name: str
    page: int
    storage_key: str
    sha256: str
    size_bytes: int | None
    created_at: datetime
    task_id: UUID | None
    state: TaskState | None


_OWN_FIELDS = [name for name in StoredImage._fields if name in i.c]


async def add_upload(conn: AsyncConnection, user_id: UUID, project_id: UUID, upload: Upload) -> list[UploadedPage]:
    """Add an image for each page that the project does not have yet. Return all pages.

    Raises NotFound if there is no such project, or the user is no member of it.
    """
    # Of two uploads of the same file at the same moment, the second waits for this lock and finds the images of the
    # first. Submits do not wait, because they lock the project only against deletion.
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
        now = await read_database_time(conn)
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
    ids = known | new
    return [UploadedPage(ids[page], page, page in new) for page in range(upload.pages)]


async def read_image(conn: AsyncConnection, user_id: UUID, image_id: UUID) -> StoredImage:
    """Return an image. Raises NotFound, also if the user is no member of its project."""
    row = (await conn.execute(_images_visible_to(user_id).where(i.c.id == image_id))).first()
    if row is None:
        raise NotFound("there is no such image")
    return StoredImage(*row)


async def list_images(
    conn: AsyncConnection,
    user_id: UUID,
    project_id: UUID,
    limit: int,
    after: UUID | None = None,
    *,
    name: str | None = None,
    state: str | None = None,
) -> Sequence[StoredImage]:
    """Return up to `limit` images of a project, sorted by id. after: only those with a higher id.

    name: a part of the name, upper or lower case. state: of the newest task, or NO_TASK.
    """
    chosen = select(i.c.id).where(i.c.project_id == project_id)
    if after is not None:
        chosen = chosen.where(i.c.id > after)
    if name:
        chosen = chosen.where(i.c.name.icontains(name, autoescape=True))
    query = _images_visible_to(user_id).order_by(i.c.id).limit(limit)
    if state is None:
        # Limited in here too, so that the newest tasks are looked up for one page and not for the whole project.
        chosen = chosen.order_by(i.c.id).limit(limit)
    else:
        query = query.where(t.c.id.is_(None) if state == NO_TASK else t.c.state == state)
    return [StoredImage(*row) for row in await conn.execute(query.where(i.c.id.in_(chosen)))]


def _images_visible_to(user_id: UUID) -> Any:
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
        select(*(i.c[name] for name in _OWN_FIELDS), t.c.id, t.c.state)
        .select_from(i)
        .outerjoin(t, t.c.id == newest)
        .where(visible_to(user_id, i.c.project_id))
    )
