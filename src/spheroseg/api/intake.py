"""Takes uploaded files into a project: checks, stores and deduplicates each, and records its outcome."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Literal
from uuid import UUID

import structlog
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from spheroseg.api.archives import files_in, open_archive, unpack
from spheroseg.api.incoming import ARCHIVE_FACTOR, IncomingFile, clean_name
from spheroseg.database.accounts import User
from spheroseg.database.images import Upload, UploadedPage, add_upload
from spheroseg.errors import BadArchive, BadRequest, FileTooLarge, SpherosegError, StorageUnusable
from spheroseg.resources import Resources
from spheroseg.segmentation.image import check_headers
from spheroseg.storage import ImageStore

log = structlog.get_logger()


class UploadedImage(BaseModel):
    """page: counted from 0; only a stack has more than one. is_new: false if the project had this image already."""

    id: UUID
    page: int
    is_new: bool


class FileProblem(BaseModel):
    """code: for programs. detail: what is wrong with the file, and what to do about it."""

    code: str
    detail: str


class UploadedFile(BaseModel):
    """The outcome for one file. For a zip archive there is one of these for each file in it.

    name: as sent; in an archive `archive.zip/folder/a.tif`. status: `created` if at least one image in it is new to
    the project; `existing` if the project has the same bytes already, under any name; `rejected` if there is a
    problem. images: one for each page.
    """

    name: str
    status: Literal["created", "existing", "rejected"]
    images: list[UploadedImage] = []
    problem: FileProblem | None = None


class Intake:
    """Takes the files of one request into a project. files: all of them. errors: those of the rejected ones."""

    def __init__(self, resources: Resources, user: User, project_id: UUID) -> None:
        self.files: list[UploadedFile] = []
        self.errors: list[SpherosegError] = []
        self.store = ImageStore(resources.settings.resolved_storage_url())
        self.limit_mb = resources.settings.max_upload_mb
        self._engine = resources.engine
        self._user_id = user.id
        self._project_id = project_id

    async def take(self, incoming: IncomingFile) -> None:
        """Take one complete file of the request. Raise only what concerns the whole request."""
        if not incoming.name:
            self._reject("", BadRequest("this part has no file name: send it as a file, including its `filename`"))
        elif incoming.is_archive and not incoming.problem:
            await self._take_archive(incoming)
        else:
            await self._take_file(incoming)

    async def _take_archive(self, incoming: IncomingFile) -> None:
        with ExitStack() as opened:
            try:
                archive = await asyncio.to_thread(opened.enter_context, open_archive(incoming.finish()))
            except SpherosegError as error:
                self._reject(incoming.name, error)
                return
            members = files_in(archive)
            if not members:
                self._reject(incoming.name, BadArchive("the zip archive contains no files"))
            bytes_left = self.limit_mb * 1024**2 * ARCHIVE_FACTOR
            for member in members:
                name = clean_name(f"{incoming.name}/{member.filename}")
                if bytes_left <= 0:
                    self._reject(name, FileTooLarge("the files before it in the archive are too large: split it"))
                    continue
                target = IncomingFile(self.store, name, self.limit_mb)
                try:
                    await self._take_file(target, partial(unpack, archive, member, target))
                finally:
                    bytes_left -= target.size
                    target.discard()

    async def _take_file(self, incoming: IncomingFile, fill: Callable[[], None] = lambda: None) -> None:
        def store() -> Upload:
            fill()
            path = incoming.finish()
            with path.open("rb") as file:
                pages = check_headers(file)
            key = f"images/{incoming.sha256[:2]}/{incoming.sha256}"
            self.store.put_file(key, path)
            return Upload(incoming.name, key, incoming.sha256, incoming.size, pages)

        try:
            upload = await asyncio.to_thread(store)
            async with self._engine.begin() as conn:
                images = await add_upload(conn, self._user_id, self._project_id, upload)
            self._accept(incoming.name, images)
        except SpherosegError as error:
            self._reject(incoming.name, error)
        except (SQLAlchemyError, OSError):
            # Not the fault of this file: the whole request fails, and the client can repeat it.
            raise
        except Exception as error:
            log.exception("an uploaded file cannot be stored", name=incoming.name, error=str(error))
            problem = "a fault of the server prevented storing this file: send it again, or ask the operator"
            self._reject(incoming.name, StorageUnusable(problem))

    def _accept(self, name: str, images: list[UploadedPage]) -> None:
        is_new = any(image.is_new for image in images)
        answers = [UploadedImage(id=image.id, page=image.page, is_new=image.is_new) for image in images]
        self.files.append(UploadedFile(name=name, status="created" if is_new else "existing", images=answers))

    def _reject(self, name: str, error: SpherosegError) -> None:
        self.errors.append(error)
        problem = FileProblem(code=error.code, detail=str(error))
        self.files.append(UploadedFile(name=name, status="rejected", problem=problem))
