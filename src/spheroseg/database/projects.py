"""Projects, their members, and the images in them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.database.engine import DatabaseTime, chunks, insert_new, read_database_time
from spheroseg.database.schema import images, project_members, projects, users
from spheroseg.errors import BadRequest, Conflict, NotFound

# How many missing images an error names.
MAX_NAMED = 5
READ_CHUNK = 1000


@dataclass(frozen=True)
class NewImage:
    """An image to be submitted. Within a project, name, page, checksum and storage key identify it.

    name: what people call it.
    storage_key: where a worker reads it, see `storage.ImageStore.open`.
    problem: (code, sentence) if the input is already known to be unusable. Its task fails at once.
    """

    name: str
    storage_key: str
    sha256: str
    page: int = 0
    problem: tuple[str, str] | None = None


class Project(NamedTuple):
    """A project. owner: the name of the user who owns it."""

    id: UUID
    owner_id: UUID
    name: str
    created_at: datetime
    owner: str


class Member(NamedTuple):
    """A user who may see a project and work in it."""

    id: UUID
    name: str
    added_at: datetime
    is_owner: bool


async def ensure_user(conn: AsyncConnection, name: str, tier: str = "regular") -> UUID:
    """Return the id of the user called `name`. Add the user, with this `tier`, if there is none."""
    await conn.execute(
        insert_new(conn, users).values(id=uuid.uuid7(), name=name, tier=tier, created_at=DatabaseTime())
    )
    user_id: UUID = (await conn.execute(select(users.c.id).where(users.c.name == name))).scalar_one()
    return user_id


async def ensure_project(conn: AsyncConnection, owner_id: UUID, name: str) -> UUID:
    """Return the id of the owner's project called `name`. Create it if there is none."""
    await conn.execute(
        insert_new(conn, projects).values(id=uuid.uuid7(), owner_id=owner_id, name=name, created_at=DatabaseTime())
    )
    query = select(projects.c.id).where(projects.c.owner_id == owner_id, projects.c.name == name)
    project_id: UUID = (await conn.execute(query)).scalar_one()
    await add_member(conn, project_id, owner_id)
    return project_id


async def create_project(conn: AsyncConnection, owner_id: UUID, name: str) -> UUID:
    """Create a project and return its id. Raises Conflict if the owner has a project of that name."""
    project_id = uuid.uuid7()
    values = {"id": project_id, "owner_id": owner_id, "name": name, "created_at": DatabaseTime()}
    async with _unique_name(conn, name):
        await conn.execute(insert(projects).values(values))
    await add_member(conn, project_id, owner_id)
    return project_id


async def rename_project(conn: AsyncConnection, project_id: UUID, name: str) -> None:
    """Rename a project. Raises Conflict if its owner has another project of that name."""
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
    own = [projects.c[name] for name in Project._fields if name != "owner"]
    return (
        select(*own, users.c.name)
        .join(users, users.c.id == projects.c.owner_id)
        .where(visible_to(user_id, projects.c.id))
    )


async def read_project(conn: AsyncConnection, user_id: UUID, project_id: UUID) -> Project:
    """Return a project. Raises NotFound, also if the user is no member of it."""
    row = (await conn.execute(_projects_of(user_id).where(projects.c.id == project_id))).first()
    if row is None:
        raise NotFound("there is no such project")
    return Project(*row)


async def list_projects(conn: AsyncConnection, user_id: UUID, limit: int, after: UUID | None) -> list[Project]:
    """Return up to `limit` projects of which the user is a member, sorted by id. after: only with a higher id."""
    query = _projects_of(user_id).order_by(projects.c.id).limit(limit)
    if after is not None:
        query = query.where(projects.c.id > after)
    return [Project(*row) for row in await conn.execute(query)]


def _members_of(project_id: UUID) -> Any:
    m = project_members
    return (
        select(users.c.id, users.c.name, m.c.added_at, (users.c.id == projects.c.owner_id).label("is_owner"))
        .join(m, m.c.user_id == users.c.id)
        .join(projects, projects.c.id == m.c.project_id)
        .where(m.c.project_id == project_id)
    )


async def list_members(conn: AsyncConnection, project_id: UUID, limit: int, after: UUID | None) -> list[Member]:
    """Return up to `limit` members of a project, sorted by user id. after: only those with a higher id."""
    query = _members_of(project_id).order_by(users.c.id).limit(limit)
    if after is not None:
        query = query.where(users.c.id > after)
    return [Member(*row) for row in await conn.execute(query)]


async def read_member(conn: AsyncConnection, project_id: UUID, user_id: UUID) -> Member:
    """Return a member that exists."""
    return Member(*(await conn.execute(_members_of(project_id).where(users.c.id == user_id))).one())


async def remove_member(conn: AsyncConnection, project_id: UUID, name: str) -> bool:
    """Remove the member called `name`. Return whether there was one."""
    named = select(users.c.id).where(users.c.name == name).scalar_subquery()
    result = await conn.execute(
        delete(project_members).where(project_members.c.project_id == project_id, project_members.c.user_id == named)
    )
    return bool(result.rowcount)


async def add_member(conn: AsyncConnection, project_id: UUID, user_id: UUID) -> None:
    """Make a user a member of a project. Does nothing if it is one already."""
    await conn.execute(
        insert_new(conn, project_members).values(project_id=project_id, user_id=user_id, added_at=DatabaseTime())
    )


def visible_to(user_id: UUID, project_id: Any) -> Any:
    """Return the SQL condition that the user is a member of the project."""
    return exists().where(project_members.c.project_id == project_id, project_members.c.user_id == user_id)


async def check_visible(conn: AsyncConnection, user_id: UUID, project_id: UUID) -> None:
    """Raise NotFound if there is no such project, or the user is no member of it."""
    member = select(project_members.c.user_id).where(
        project_members.c.project_id == project_id, project_members.c.user_id == user_id
    )
    if (await conn.execute(member)).first() is None:
        raise NotFound("there is no such project")


async def read_tier(conn: AsyncConnection, user_id: UUID) -> str:
    """Return the tier of a user: `regular` or `premium`."""
    tier: str = (await conn.execute(select(users.c.tier).where(users.c.id == user_id))).scalar_one()
    return tier


async def ensure_images(conn: AsyncConnection, project_id: UUID, new: Sequence[NewImage]) -> list[UUID]:
    """Add the images that the project does not have yet. Return the ids of `new`, in their order."""
    now = await read_database_time(conn)
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
            # Everybody inserts in one order, so that two who insert the same images cannot deadlock.
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
    """Return images of a project by their id: those of `image_ids` in that order, or all, sorted by name.

    Raises BadRequest, naming some of them, if the project does not have all of `image_ids`.
    """
    i = images
    query = select(i.c.id, i.c.name, i.c.storage_key, i.c.sha256, i.c.page).where(i.c.project_id == project_id)
    by_id: dict[UUID, NewImage] = {}
    if image_ids is None:
        rows = await conn.stream(query.order_by(i.c.name, i.c.page, i.c.id))
        # In chunks, so that a process with other things to do is never busy for long.
        async for some in rows.partitions(READ_CHUNK):
            by_id.update({row.id: _image(row) for row in some})
        return by_id
    wanted = list(dict.fromkeys(image_ids))
    for chunk in chunks(wanted, READ_CHUNK):
        by_id.update({row.id: _image(row) for row in await conn.execute(query.where(i.c.id.in_(chunk)))})
    if missing := [image_id for image_id in wanted if image_id not in by_id]:
        named = ", ".join(map(str, missing[:MAX_NAMED])) + (" …" if len(missing) > MAX_NAMED else "")
        raise BadRequest(f"the project has no such image, {len(missing)} of {len(wanted)}: {named}")
    return {image_id: by_id[image_id] for image_id in wanted}


def _image(row: Any) -> NewImage:
    return NewImage(row.name, row.storage_key, row.sha256, row.page)


def _identity(image: NewImage) -> tuple[str, int, str, str]:
    return (image.name, image.page, image.sha256, image.storage_key)
