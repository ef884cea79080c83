"""Users, their projects, and the images in them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks, insert_new
from spheroseg.database.schema import images, project_members, projects, users
from spheroseg.errors import BadRequest, Conflict, NotFound

# Of those that are missing, in an error.
NAMED = 5
READ_CHUNK = 1000


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


async def create_project(conn: AsyncConnection, owner_id: UUID, name: str) -> UUID:
    """Its id. Raises Conflict where the owner has a project of that name."""
    project_id = uuid.uuid7()
    values = {"id": project_id, "owner_id": owner_id, "name": name, "created_at": DatabaseTime()}
    async with _unique_name(conn, name):
        await conn.execute(insert(projects).values(values))
    await add_member(conn, project_id, owner_id)
    return project_id


async def rename_project(conn: AsyncConnection, project_id: UUID, name: str) -> None:
    """Raises Conflict where the owner has another project of that name."""
    async with _unique_name(conn, name):
        await conn.execute(update(projects).where(projects.c.id == project_id).values(name=name))


@asynccontextmanager
async def _unique_name(conn: AsyncConnection, name: str) -> AsyncIterator[None]:
    try:
        async with conn.begin_nested():
            yield
    except IntegrityError:
        raise Conflict(f"you have a project {name!r} already: choose another name") from None


def _projects_of(user_id: UUID) -> Any:
    return (
        select(projects, users.c.name.label("owner"))
        .join(users, users.c.id == projects.c.owner_id)
        .where(visible_to(user_id, projects.c.id))
    )


async def read_project(conn: AsyncConnection, user_id: UUID, project_id: UUID) -> Any:
    """Its row, with the owner's name as `owner`. Raises NotFound where there is none, or not for that user."""
    row = (await conn.execute(_projects_of(user_id).where(projects.c.id == project_id))).first()
    if row is None:
        raise NotFound("there is no such project")
    return row


async def list_projects(conn: AsyncConnection, user_id: UUID, limit: int, after: UUID | None) -> Sequence[Any]:
    """Rows like `read_project`'s: the user's projects with an id above `after`, at most `limit` of them."""
    query = _projects_of(user_id).order_by(projects.c.id).limit(limit)
    return (await conn.execute(query.where(projects.c.id > after) if after else query)).all()


def _members_of(project_id: UUID) -> Any:
    m = project_members
    return (
        select(users.c.id, users.c.name, m.c.added_at, (users.c.id == projects.c.owner_id).label("is_owner"))
        .join(m, m.c.user_id == users.c.id)
        .join(projects, projects.c.id == m.c.project_id)
        .where(m.c.project_id == project_id)
    )


async def list_members(conn: AsyncConnection, project_id: UUID, limit: int, after: UUID | None) -> Sequence[Any]:
    """id, name, added_at, is_owner of the members with a user id above `after`, at most `limit` of them."""
    query = _members_of(project_id).order_by(users.c.id).limit(limit)
    return (await conn.execute(query.where(users.c.id > after) if after else query)).all()


async def read_member(conn: AsyncConnection, project_id: UUID, user_id: UUID) -> Any:
    return (await conn.execute(_members_of(project_id).where(users.c.id == user_id))).one()


async def remove_member(conn: AsyncConnection, project_id: UUID, name: str) -> bool:
    """Whether there was a member of that name."""
    named = select(users.c.id).where(users.c.name == name).scalar_subquery()
    result = await conn.execute(
        delete(project_members).where(project_members.c.project_id == project_id, project_members.c.user_id == named)
    )
    return bool(result.rowcount)


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


async def read_images(
    conn: AsyncConnection, project_id: UUID, image_ids: Sequence[UUID] | None = None
) -> dict[UUID, NewImage]:
    """Images of a project by their id: those asked for, in that order, or all, in the order of their names.

    Raises BadRequest, naming some, where the project has not all that were asked for.
    """
    i = images
    query = select(i.c.id, i.c.name, i.c.storage_key, i.c.sha256, i.c.page).where(i.c.project_id == project_id)
    found: dict[UUID, NewImage] = {}
    if image_ids is None:
        rows = await conn.stream(query.order_by(i.c.name, i.c.page, i.c.id))
        # Piece by piece, so that a process with other things to do is never busy for long.
        async for some in rows.partitions(READ_CHUNK):
            found.update({row.id: _image(row) for row in some})
        return found
    wanted = list(dict.fromkeys(image_ids))
    for chunk in chunks(wanted, READ_CHUNK):
        found.update({row.id: _image(row) for row in await conn.execute(query.where(i.c.id.in_(chunk)))})
    if missing := [image_id for image_id in wanted if image_id not in found]:
        named = ", ".join(map(str, missing[:NAMED])) + (" …" if len(missing) > NAMED else "")
        raise BadRequest(f"the project has no such image, {len(missing)} of {len(wanted)}: {named}")
    return {image_id: found[image_id] for image_id in wanted}


def _image(row: Any) -> NewImage:
    return NewImage(row.name, row.storage_key, row.sha256, row.page)


def _identity(image: NewImage) -> tuple[str, int, str, str]:
    return (image.name, image.page, image.sha256, image.storage_key)
