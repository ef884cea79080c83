"""Users, their projects, and the images in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import Table, exists, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks
from spheroseg.database.schema import images, project_members, projects, users
from spheroseg.errors import NotFound


@dataclass(frozen=True)
class NewImage:
    """An image to be submitted.

    name: what people call it. Within a project an image is known by name, page, checksum and place.
    storage_key: where a worker reads it, see `storage.ImageStore.open`.
    problem: (code, sentence) where the input is already known to be unusable; its task fails at once.
    """

    name: str
    storage_key: str
    sha256: str
    page: int = 0
    problem: tuple[str, str] | None = None


def insert_new(conn: AsyncConnection, table: Table) -> Any:
    """An INSERT that leaves alone the rows that are there already."""
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


async def ensure_user(conn: AsyncConnection, name: str, tier: str = "regular") -> UUID:
    """The id of the user called `name`, who is made if need be; `tier` is for a new one."""
    await conn.execute(
        insert_new(conn, users).values(id=uuid.uuid7(), name=name, tier=tier, created_at=DatabaseTime())
    )
    found: UUID = (await conn.execute(select(users.c.id).where(users.c.name == name))).scalar_one()
    return found


async def ensure_project(conn: AsyncConnection, owner_id: UUID, name: str) -> UUID:
    """The id of the owner's project called `name`, which is made if need be."""
    await conn.execute(
        insert_new(conn, projects).values(id=uuid.uuid7(), owner_id=owner_id, name=name, created_at=DatabaseTime())
    )
    wanted = select(projects.c.id).where(projects.c.owner_id == owner_id, projects.c.name == name)
    found: UUID = (await conn.execute(wanted)).scalar_one()
    await add_member(conn, found, owner_id)
    return found


async def add_member(conn: AsyncConnection, project_id: UUID, user_id: UUID) -> None:
    await conn.execute(
        insert_new(conn, project_members).values(project_id=project_id, user_id=user_id, added_at=DatabaseTime())
    )


def visible_to(user_id: UUID, project_id: Any) -> Any:
    """SQL condition: that user is a member of the project."""
    return exists().where(project_members.c.project_id == project_id, project_members.c.user_id == user_id)


async def check_visible(conn: AsyncConnection, user_id: UUID, project_id: UUID) -> None:
    """Raises NotFound where there is no such project, or not for that user."""
    member = select(project_members.c.user_id).where(
        project_members.c.project_id == project_id, project_members.c.user_id == user_id
    )
    if (await conn.execute(member)).first() is None:
        raise NotFound("there is no such project")


async def read_tier(conn: AsyncConnection, user_id: UUID) -> str:
    tier: str = (await conn.execute(select(users.c.tier).where(users.c.id == user_id))).scalar_one()
    return tier


async def ensure_images(conn: AsyncConnection, project_id: UUID, new: Sequence[NewImage]) -> list[UUID]:
    """The ids of `new`, in their order; what the project has already keeps its id."""
    now = (await conn.execute(select(DatabaseTime()))).scalar_one()
    await conn.execute(
        insert_new(conn, images),
        [
            {
                "id": uuid.uuid7(),
                "project_id": project_id,
                "name": image.name,
                "page": image.page,
                "storage_key": image.storage_key,
                "sha256": image.sha256,
                "created_at": now,
            }
            # In one order for everybody: two that insert the same images wait for each other, not for ever.
            for image in sorted(new, key=_identity)
        ],
    )
    ids: dict[tuple[str, int, str, str], UUID] = {}
    for names in chunks(sorted({image.name for image in new})):
        rows = await conn.execute(select(images).where(images.c.project_id == project_id, images.c.name.in_(names)))
        ids.update({(row.name, row.page, row.sha256, row.storage_key): row.id for row in rows})
    return [ids[_identity(image)] for image in new]


def _identity(image: NewImage) -> tuple[str, int, str, str]:
    return (image.name, image.page, image.sha256, image.storage_key)
