"""Errors as OpenAI's clients expect them: {"error": {message, type, param, code}}."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from hanok.errors import (
    AuditError,
    ContextLengthError,
    EngineError,
    HanokError,
    NotFoundError,
    QueueFullError,
    ReviewError,
)
from hanok.reporting import log

ANTHROPIC = "/v1/messages"
CONTENT_BLOCKED = "content_blocked"
_FIELDS = ("message", "type", "param", "code")  # of every error
_ANTHROPIC_KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip

_OF_REVIEWS = {"own_item": 403, "correction_missing": 400, "correction_unwanted": 400}


class ApiError(Exception):
    """Answers with `status` and one error object. Args: more: fields of it beside those that every error has."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] = {}, more: Mapping[str, Any] = {},
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers
        self.more = more


class ErrorResponse(JSONResponse):
    """In Anthropic's envelope on the paths of its API, in OpenAI's everywhere else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path", "").startswith(ANTHROPIC):
            error = json.loads(bytes(self.body))["error"]
            more = {name: value for name, value in error.items() if name not in _FIELDS}
            told = anthropic_error(self.status_code, error["message"], error["code"], more=more)
            self.body = self.render(told)
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def anthropic_error(
    status: int, message: str, code: str | None = None, *, more: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """Theirs has no code; that of what the guard refuses is put beside."""
    kind = _ANTHROPIC_KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    coded = {"code": code, **more} if code == CONTENT_BLOCKED else {}
    return {"type": "error", "error": {"type": kind, "message": message, **coded}}


def error_response(
    status: int, message: str, *, param: str | None = None, code: str | None = None, more: Mapping[str, Any] = {},
) -> JSONResponse:  # fmt: skip
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code, **more}
    return ErrorResponse({"error": error}, status)


def problem(errors: Sequence[Any]) -> tuple[str | None, str, str]:
    """(field, message, code) of a body that breaks rules. Where a value may be of several kinds, what went wrong deepest within
    one of them says most."""
    deepest = max(errors, key=lambda error: len(error["loc"]))
    param = ".".join(str(part) for part in deepest["loc"] if part != "body") or None
    return param, f"{param or 'body'}: {deepest['msg']}", deepest["type"]


def stream_error(error: Exception, request_id: str) -> dict[str, Any]:
    """The error object of an answer that had begun; what was not foreseen goes to the log."""
    if isinstance(error, ApiError):
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        return {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    if isinstance(error, HanokError):
        kind = "server_error" if isinstance(error, EngineError) else "invalid_request_error"
        return {"message": str(error), "type": kind, "param": None, "code": None}
    log.error("request %s failed", request_id, exc_info=error)
    message = "the server failed; its log says why"
    return {"message": message, "type": "server_error", "param": None, "code": None}


def methods_of(app: FastAPI, path: str) -> list[str]:
    """What the routes in `app.state.routes` let one do at a path."""
    found: set[str] = set()
    for route in getattr(app.state, "routes", ()):
        if route.path_regex.match(path):
            found |= route.methods
    return sorted(found)


def install_handlers(app: FastAPI) -> None:
    """Every way in which a request can fail."""

    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> JSONResponse:
        response = error_response(
            error.status, error.message, param=error.param, code=error.code, more=error.more
        )
        response.headers.update(error.headers)
        return response

    @app.exception_handler(ContextLengthError)
    async def too_long(_request: Request, error: ContextLengthError) -> JSONResponse:
        return error_response(400, str(error), param="messages", code="context_length_exceeded")

    @app.exception_handler(QueueFullError)
    async def full(_request: Request, error: QueueFullError) -> JSONResponse:
        response = error_response(503, str(error), code="queue_full")
        response.headers["Retry-After"] = str(error.retry_after)
        return response

    @app.exception_handler(EngineError)
    async def lost(_request: Request, error: EngineError) -> JSONResponse:
        return error_response(503, str(error), code="engine_lost")

    @app.exception_handler(AuditError)
    async def unaudited(_request: Request, error: AuditError) -> JSONResponse:
        return error_response(503, str(error), code="audit_unavailable")

    @app.exception_handler(NotFoundError)
    async def not_found(_request: Request, error: NotFoundError) -> JSONResponse:
        return error_response(404, str(error), code="not_found")

    @app.exception_handler(ReviewError)
    async def forbidden(_request: Request, error: ReviewError) -> JSONResponse:
        param = "correction" if error.code.startswith("correction") else None
        return error_response(_OF_REVIEWS.get(error.code, 409), str(error), param=param, code=error.code)

    @app.exception_handler(HanokError)
    async def bad_input(_request: Request, error: HanokError) -> JSONResponse:
        return error_response(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        param, message, code = problem(error.errors())
        return error_response(400, message, param=param, code=code)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        status, message, path = error.status_code, str(error.detail), request.url.path
        headers = dict(error.headers or {})
        if status in (404, 405):  # said by the files of the page, which stand behind all routes
            allowed = methods_of(app, path)
            if allowed and request.method not in allowed:
                status, message = 405, f"{request.method} is not allowed here: {', '.join(allowed)}"
                headers["Allow"] = ", ".join(allowed)
            elif not allowed and status == 405 and request.method not in ("GET", "HEAD"):
                status, message = 404, "Not Found"
        response = error_response(status, message)
        response.headers.update(headers)
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, "the server failed; its log says why")
