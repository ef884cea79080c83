"""From files that come in to images of a project: each checked, stored, deduplicated, and answered for itself."""

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
from spheroseg.api.incoming import ARCHIVE_FACTOR, Incoming, clean_name
from spheroseg.database.accounts import User
from spheroseg.database.images import Upload, UploadedPage, add_upload
from spheroseg.errors import BadArchive, BadRequest, FileTooLarge, SpherosegError, StorageUnusable
from spheroseg.resources import Resources
from spheroseg.segmentation.image import check_headers
from spheroseg.storage import ImageStore

log = structlog.get_logger()


class UploadedImage(BaseModel):
    """page: counted from 0; only a stack has more than one. is_new: false where the project had this picture."""

    id: UUID
    page: int
    is_new: bool


class FileProblem(BaseModel):
    """code: for programs. detail: what is wrong with the file, and what to do about it."""

    code: str
    detail: str


class UploadedFile(BaseModel):
    """What became of one file; of a zip archive, of each file in it.

    name: as sent; in an archive `archive.zip/folder/a.tif`. status: `created` where at least one picture in it is
    new to the project; `existing` where the project has the same bytes already, under whatever name; `rejected`
    where there is a problem. images: one for each page.
    """

    name: str
    status: Literal["created", "existing", "rejected"]
    images: list[UploadedImage] = []
    problem: FileProblem | None = None


class Intake:
    """Takes the files of one request into a project. `files` and `errors` grow with each."""

    def __init__(self, place: Resources, user: User, project_id: UUID) -> None:
        self.files: list[UploadedFile] = []
        self.errors: list[SpherosegError] = []
        self.store = ImageStore(place.settings.resolved_storage_url())
        self.limit_mb = place.settings.max_upload_mb
        self._engine = place.engine
        self._user_id = user.id
        self._project_id = project_id

    async def take(self, incoming: Incoming) -> None:
        if not incoming.name:
            self._reject("", BadRequest("this part has no file name: send it as a file, `filename` included"))
        elif incoming.is_archive and not incoming.problem:
            await self._take_archive(incoming)
        else:
            await self._take_file(incoming)

    async def _take_archive(self, incoming: Incoming) -> None:
        with ExitStack() as opened:
            try:
                archive = await asyncio.to_thread(opened.enter_context, open_archive(incoming.finish()))
            except SpherosegError as error:
                self._reject(incoming.name, error)
                return
            members = files_in(archive)
            if not members:
                self._reject(incoming.name, BadArchive("the zip archive holds no files"))
            left = self.limit_mb * 1024**2 * ARCHIVE_FACTOR
            for member in members:
                name = clean_name(f"{incoming.name}/{member.filename}")
                if left <= 0:
                    self._reject(name, FileTooLarge("what is in the archive before it is too large: split it"))
                    continue
                target = Incoming(self.store, name, self.limit_mb)
                try:
                    await self._take_file(target, partial(unpack, archive, member, target))
                finally:
                    left -= target.size
                    target.discard()

    async def _take_file(self, incoming: Incoming, fill: Callable[[], None] = lambda: None) -> None:
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
            # Not this file's: the whole request says so, and can be sent again.
            raise
        except Exception as error:
            log.exception("a file could not be taken in", name=incoming.name, error=str(error))
            problem = (
                "this file could not be stored, which is not its fault: send it again, or ask who runs the server"
            )
            self._reject(incoming.name, StorageUnusable(problem))

    def _accept(self, name: str, images: list[UploadedPage]) -> None:
        is_new = any(image.is_new for image in images)
        answers = [UploadedImage(**vars(image)) for image in images]
        self.files.append(UploadedFile(name=name, status="created" if is_new else "existing", images=answers))

    def _reject(self, name: str, error: SpherosegError) -> None:
        self.errors.append(error)
        problem = FileProblem(code=error.code, detail=str(error))
        self.files.append(UploadedFile(name=name, status="rejected", problem=problem))
