"""Projects and their members."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.api.fields import LongName, ShortName
from spheroseg.api.paging import Cursor, Limit, Page, read_cursor, write_cursor
from spheroseg.database import projects as rows_of
from spheroseg.database.accounts import User, find_user
from spheroseg.database.engine import reading
from spheroseg.database.versions import read_result_versions
from spheroseg.errors import Conflict, Forbidden, NotFound

router = APIRouter(prefix="/projects", tags=["projects"])


class ProjectName(BaseModel):
    name: LongName


class Project(BaseModel):
    """owner: name of the user who created it. is_owner: whether that is you."""

    id: UUID
    name: str
    owner: str
    is_owner: bool
    created_at: datetime


class Version(BaseModel):
    """A result version: all batches with the same model, parameters and pixel size.

    pixel_size_um: µm per pixel, given for all images; null if each file's own is used. completed, failed: tasks.
    """

    number: int
    model: str
    model_sha256: str | None
    parameters: dict[str, Any]
    pixel_size_um: float | None
    batch_ids: list[UUID]
    first_used_at: datetime
    last_used_at: datetime
    completed: int
    failed: int


class Member(BaseModel):
    """name: of the user. added_at: when the user became a member."""

    name: str
    is_owner: bool
    added_at: datetime


def _project(row: rows_of.Project, user: User) -> Project:
    return Project(
        id=row.id, name=row.name, owner=row.owner, is_owner=row.owner_id == user.id, created_at=row.created_at
    )


def _check_owner(row: rows_of.Project, user: User, what: str) -> None:
    if row.owner_id != user.id:
        raise Forbidden(f"only the owner, {row.owner}, {what}")


@router.post("", status_code=201)
async def create_project(resources: AppResources, user: CurrentUser, new: ProjectName) -> Project:
    """Create a project of your own. 409 if you have one of that name."""
    async with resources.engine.begin() as conn:
        project_id = await rows_of.create_project(conn, user.id, new.name)
        return _project(await rows_of.read_project(conn, user.id, project_id), user)


@router.get("")
async def list_projects(
    resources: AppResources, user: CurrentUser, limit: Limit = 100, cursor: Cursor = None
) -> Page[Project]:
    """List the projects that you are a member of, the oldest first."""
    async with reading(resources.engine) as conn:
        rows = await rows_of.list_projects(conn, user.id, limit + 1, read_cursor(cursor, UUID))
    return Page(
        items=[_project(row, user) for row in rows[:limit]],
        next_cursor=write_cursor(rows, limit, lambda row: row.id),
    )


@router.get("/{project_id}")
async def read_project(resources: AppResources, user: CurrentUser, project_id: UUID) -> Project:
    """Read one project."""
    async with reading(resources.engine) as conn:
        return _project(await rows_of.read_project(conn, user.id, project_id), user)


@router.patch("/{project_id}")
async def rename_project(
    resources: AppResources, user: CurrentUser, project_id: UUID, change: ProjectName
) -> Project:
    """Rename a project of your own. 409 if another of yours has that name."""
    async with resources.engine.begin() as conn:
        _check_owner(await rows_of.read_project(conn, user.id, project_id), user, "renames a project")
        await rows_of.rename_project(conn, project_id, change.name)
        return _project(await rows_of.read_project(conn, user.id, project_id), user)


@router.get("/{project_id}/result-versions")
async def list_result_versions(resources: AppResources, user: CurrentUser, project_id: UUID) -> Page[Version]:
    """List the result versions of the project, in the order of their first use.

    A version replaces no other one: its results are those of its batches.
    """
    async with reading(resources.engine) as conn:
        await rows_of.read_project(conn, user.id, project_id)
        versions = await read_result_versions(conn, project_id)
    items = [Version.model_validate(version, from_attributes=True) for version in versions]
    return Page(items=items, next_cursor=None)


@router.get("/{project_id}/members")
async def list_members(
    resources: AppResources, user: CurrentUser, project_id: UUID, limit: Limit = 100, cursor: Cursor = None
) -> Page[Member]:
    """List the users who may see the project and work in it, including its owner."""
    async with reading(resources.engine) as conn:
        await rows_of.check_visible(conn, user.id, project_id)
        rows = await rows_of.list_members(conn, project_id, limit + 1, read_cursor(cursor, UUID))
    return Page(
        items=[Member(name=row.name, is_owner=row.is_owner, added_at=row.added_at) for row in rows[:limit]],
        next_cursor=write_cursor(rows, limit, lambda row: row.id),
    )


@router.put("/{project_id}/members/{name}")
async def add_member(resources: AppResources, user: CurrentUser, project_id: UUID, name: ShortName) -> Member:
    """Make a user a member of a project of your own. Nothing changes for a user who is a member already."""
    async with resources.engine.begin() as conn:
        _check_owner(await rows_of.read_project(conn, user.id, project_id), user, "adds members")
        added = await find_user(conn, name)
        await rows_of.add_member(conn, project_id, added.id)
        row = await rows_of.read_member(conn, project_id, added.id)
    return Member(name=row.name, is_owner=row.is_owner, added_at=row.added_at)


@router.delete("/{project_id}/members/{name}", status_code=204)
async def remove_member(resources: AppResources, user: CurrentUser, project_id: UUID, name: ShortName) -> None:
    """Remove a member from a project of your own, or yourself from another's. 409 for the owner."""
    async with resources.engine.begin() as conn:
        project = await rows_of.read_project(conn, user.id, project_id)
        if name != user.name:
            _check_owner(project, user, "removes other members")
        if name == project.owner:
            raise Conflict("the owner of a project cannot be removed")
        if not await rows_of.remove_member(conn, project_id, name):
            raise NotFound(f"{name!r} is no member of this project")
