"""Errors as responses: problem details (RFC 9457), application/problem+json."""

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
    """code: for programs, stable. detail: a sentence for a person. errors: the invalid parts of the request."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] | None = None


# The errors that every endpoint may answer with.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": title, "content": {MEDIA_TYPE: {}}}
    for status, title in (
        (400, "The body is not JSON"),
        (401, "The token is missing or invalid"),
        (403, "Not allowed for this role"),
        (404, "It does not exist, or not for this user"),
        (409, "Not possible in the current state"),
        (413, "Too large"),
        (422, "The request is invalid"),
        (503, "Unavailable now: try again"),
    )
}


def problem_response(status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> JSONResponse:
    title = code.replace("_", " ").capitalize()
    problem = Problem(title=title, status=status, code=code, detail=detail, errors=errors)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE)


class TooLargeMiddleware:
    """Replaces the framework's plain-text response to a body that is too large by a problem response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_replaced = False

        async def replace_and_send(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                media_type = Headers(raw=message["headers"]).get("content-type", "")
                is_replaced = media_type.startswith("text/plain")
            if not is_replaced:
                await send(message)
            elif message["type"] == "http.response.start":
                response = problem_response(413, "too_large", "this request is larger than any valid one")
                await response(scope, receive, send)

        await self.app(scope, receive, replace_and_send)


def handle_problems(app: FastAPI) -> None:
    """Have `app` answer every error with a problem response."""
    app.add_middleware(TooLargeMiddleware)

    @app.exception_handler(SpherosegError)
    async def _expected(_: Request, error: SpherosegError) -> JSONResponse:
        return problem_response(error.status, error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [{"where": ".".join(map(str, fault["loc"])), "what": fault["msg"]} for fault in error.errors()]
        if request.headers.get("content-length", "0") != "0" and "json" not in request.headers.get(
            "content-type", ""
        ):
            return problem_response(422, "bad_request", "send JSON, with the header Content-Type: application/json")
        detail = "; ".join(f"{fault['where']}: {fault['what']}" for fault in errors[:5])
        return problem_response(422, "bad_request", detail, errors)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "bad_request")
        detail = str(error.detail)
        if detail == "Not Found":
            detail = "there is no such path: /api/openapi.json lists all"
        response = problem_response(error.status_code, code, detail)
        response.headers.update(error.headers or {})
        return response

    # Connection errors of the driver (refused, unknown host, timeout) are not wrapped by SQLAlchemy.
    @app.exception_handler(DBAPIError)
    @app.exception_handler(PoolTimeout)
    @app.exception_handler(OSError)
    async def _database(request: Request, error: Exception) -> JSONResponse:
        log.error("the database did not answer a request", path=request.url.path, error=describe(error))
        return problem_response(
            503, "database_away", "the database does not answer as it should: try again in a moment"
        )

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed because of a bug", path=request.url.path, exc_info=error)
        return problem_response(500, "internal", "this is a bug of the backend: its log says what happened")
