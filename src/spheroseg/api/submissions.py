"""Submit a batch: have images of a project segmented."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from spheroseg.api.auth import AppResources, CurrentUser
from spheroseg.api.batches import read_progress
from spheroseg.api.fields import ShortName
from spheroseg.api.schemas import BatchOut
from spheroseg.database import batches as stored
from spheroseg.database.projects import check_visible, read_images
from spheroseg.database.webhooks import add_webhook
from spheroseg.errors import BadRequest, Conflict
from spheroseg.queueing.submit import submit
from spheroseg.queueing.webhook_urls import MAX_URL_LENGTH, check_webhook_url
from spheroseg.segmentation.model import DEFAULT_MODEL, find_model
from spheroseg.segmentation.parameters import Parameters, with_defaults

router = APIRouter(prefix="/segmentation/batches", tags=["batches"])


class ParametersIn(BaseModel):
    """Parameters of the segmentation.

    threshold: probability at the outline, between 0 and 1. min_area_px, min_area_um2: minimum area of an object; the
    larger of the two applies, and null means that it follows from the image size. min_area_um2 needs a known pixel
    size. objects: all of them, only the largest, or the one nearest to the centre. edge: whether objects that touch
    the edge of the image are kept. separate: whether touching objects are separated, if the model can do so.
    """

    # A misspelt parameter must be an error, or it would look as if it had been applied.
    model_config = ConfigDict(extra="forbid")

    threshold: float = Parameters.threshold
    min_area_px: float | None = Parameters.min_area_px
    min_area_um2: float | None = Parameters.min_area_um2
    objects: Literal["all", "largest", "most_central"] = "all"
    edge: Literal["keep", "discard"] = "keep"
    separate: bool = Parameters.separate


class BatchIn(BaseModel):
    """The images to segment, and how to segment them."""

    model_config = ConfigDict(extra="forbid")

    project_id: UUID
    image_ids: list[UUID] | None = Field(
        None, min_length=1, description="Any number of images of the project; if absent, all of them."
    )
    model: ShortName | None = Field(None, description="If absent, the default model of the backend.")
    parameters: ParametersIn = ParametersIn()
    pixel_size_um: float | None = Field(
        None,
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="µm per pixel, for all images; if absent, each file's own pixel size is used.",
    )
    webhook_url: str | None = Field(
        None, max_length=MAX_URL_LENGTH, description="http or https; called once when the batch has finished."
    )


def _check_key(value: str | None) -> str | None:
    if value is not None and (not value.strip() or "\x00" in value):
        raise ValueError("must not be empty")
    return value


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="A key of your choice. A second request with the same key returns the same batch.",
    ),
    AfterValidator(_check_key),
]

_LOCATION = {"Location": {"description": "Address of the batch.", "schema": {"type": "string"}}}
_REPLAYED = {"Idempotent-Replayed": {"description": "true", "schema": {"type": "string"}}}


@router.post(
    "",
    status_code=202,
    response_model=BatchOut,
    response_description="Accepted: everything is stored, and the client may disconnect",
    responses={
        202: {"headers": _LOCATION},
        200: {
            "model": BatchOut,
            "description": "The batch that an earlier request with this key made",
            "headers": {**_LOCATION, **_REPLAYED},
        },
    },
)
async def submit_batch(
    wanted: BatchIn,
    resources: AppResources,
    user: CurrentUser,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> BatchOut:
    """Segment images of a project: the named ones, or all of them.

    The response comes as soon as the batch is stored. From then on nothing of it can be lost. Its priority follows
    from your tier. Send an `Idempotency-Key` to be able to repeat the request if its response is lost.
    """
    name = wanted.model or resources.settings.model or DEFAULT_MODEL
    # In a thread, because it reads folders and computes the hashes of networks.
    model = await asyncio.to_thread(find_model, name, resources.settings.model_folders)
    parameters = asdict(Parameters(**wanted.parameters.model_dump()))
    if wanted.webhook_url is not None:
        check_webhook_url(wanted.webhook_url, resources.settings.allows_private_webhooks)
    async with resources.engine.begin() as conn:
        await check_visible(conn, user.id, wanted.project_id)
        earlier_id = await stored.find_batch(conn, user.id, idempotency_key) if idempotency_key else None
        if earlier_id is None:
            images = await read_images(conn, wanted.project_id, wanted.image_ids)
            if not images:
                raise BadRequest("the project has no images yet: upload some, then submit again")
            submitted = await submit(
                conn,
                user_id=user.id,
                project_id=wanted.project_id,
                images=list(images.values()),
                image_ids=list(images),
                model=model.name,
                model_sha256=model.sha256,
                parameters=parameters,
                pixel_size_um=wanted.pixel_size_um,
                idempotency_key=idempotency_key,
            )
            batch_id, is_new = submitted.batch_id, submitted.is_new
            if is_new and wanted.webhook_url is not None:
                await add_webhook(conn, batch_id, wanted.webhook_url)
        else:
            batch_id, is_new = earlier_id, False
        batch = await stored.read_batch(conn, user.id, batch_id)
        if batch.project_id != wanted.project_id:
            raise Conflict("this Idempotency-Key has made a batch in another project: use another key")
        if not is_new:
            await _check_same(conn, batch, wanted, model.name, parameters)
        progress = await read_progress(conn, batch)
    response.headers["Location"] = f"/api/segmentation/batches/{batch_id}"
    if not is_new:
        response.status_code = 200
        response.headers["Idempotent-Replayed"] = "true"
    return progress


async def _check_same(
    conn: AsyncConnection, batch: stored.Batch, wanted: BatchIn, model: str, parameters: dict[str, Any]
) -> None:
    """Raise Conflict if the earlier batch of the key differs from `wanted`: its results would be misleading."""
    earlier = (batch.model, with_defaults(batch.parameters), batch.pixel_size_um)
    is_same = earlier == (model, parameters, wanted.pixel_size_um)
    if is_same and wanted.image_ids is not None:
        is_same = set(wanted.image_ids) == await stored.read_image_ids(conn, batch.id)
    if not is_same:
        raise Conflict(
            "this Idempotency-Key has made a batch with another model, parameters, pixel size or images: "
            "use another key for another batch"
        )
