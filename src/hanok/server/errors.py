"""Errors as OpenAI's clients expect them: {"error": {message, type, param, code}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hanok.errors import ContextLengthError, EngineError, HanokError, NotFoundError, QueueFullError
from hanok.reporting import log


class ApiError(Exception):
    """Answers with `status` and one error object."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] = {},
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


def error_response(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


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


def install_handlers(app: FastAPI) -> None:
    """Every way in which a request can fail."""

    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> JSONResponse:
        response = error_response(error.status, error.message, param=error.param, code=error.code)
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

    @app.exception_handler(NotFoundError)
    async def not_found(_request: Request, error: NotFoundError) -> JSONResponse:
        return error_response(404, str(error), code="not_found")

    @app.exception_handler(HanokError)
    async def bad_input(_request: Request, error: HanokError) -> JSONResponse:
        return error_response(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body")
        return error_response(
            400, f"{param or 'body'}: {first['msg']}", param=param or None, code=first["type"]
        )

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, "the server failed; its log says why")
