"""Errors as people and programs read them: RFC 9457, application/problem+json."""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spheroseg.database.revisions import describe
from spheroseg.errors import SpherosegError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5


class Problem(BaseModel):
    """code: for programs, stable. detail: a sentence for a person. errors: which parts of a request are wrong."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, Any]] | None = None


# Any of them may answer any request.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": title, "content": {MEDIA_TYPE: {}}}
    for status, title in (
        (400, "Not even JSON"),
        (401, "No valid token"),
        (403, "Not for this role"),
        (404, "Not there, or not for this user"),
        (409, "Not as things stand"),
        (413, "Too large"),
        (422, "The request is wrong"),
        (503, "Not now"),
    )
}


def answer(status: int, code: str, detail: str, **more: Any) -> JSONResponse:
    title = code.replace("_", " ").capitalize()
    problem = Problem(title=title, status=status, code=code, detail=detail, **more)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE)


class TellTooLarge:
    """Middleware: the framework's own answer to a body that is too large, plain text, as a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_replaced = False

        async def retold(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                kind = Headers(raw=message["headers"]).get("content-type", "")
                is_replaced = kind.startswith("text/plain")
            if not is_replaced:
                await send(message)
            elif message["type"] == "http.response.start":
                await answer(413, "too_large", "this request is larger than any that is meant")(scope, receive, send)

        await self.app(scope, receive, retold)


def handle_problems(app: FastAPI) -> None:
    app.add_middleware(TellTooLarge)

    @app.exception_handler(SpherosegError)
    async def _ours(_: Request, error: SpherosegError) -> JSONResponse:
        return answer(error.status, error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [{"where": ".".join(map(str, fault["loc"])), "what": fault["msg"]} for fault in error.errors()]
        if request.headers.get("content-length", "0") != "0" and "json" not in request.headers.get(
            "content-type", ""
        ):
            return answer(422, "bad_request", "send JSON, with the header Content-Type: application/json")
        detail = "; ".join(f"{fault['where']}: {fault['what']}" for fault in errors[:5])
        return answer(422, "bad_request", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "bad_request")
        detail = str(error.detail)
        if detail == "Not Found":
            detail = "there is no such address: /api/openapi.json lists all"
        response = answer(error.status_code, code, detail)
        response.headers.update(error.headers or {})
        return response

    # The driver's errors in connecting come as they are: a refusal, a name that does not resolve, a timeout.
    @app.exception_handler(DBAPIError)
    @app.exception_handler(PoolTimeout)
    @app.exception_handler(OSError)
    async def _database(request: Request, error: Exception) -> JSONResponse:
        log.error("the database does not do what a request needs", path=request.url.path, error=describe(error))
        return answer(503, "database_away", "the database does not answer as it should: try again in a moment")

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        log.error("a request met a bug", path=request.url.path, exc_info=error)
        return answer(500, "internal", "this is a fault of the backend's own: its log says what happened")
