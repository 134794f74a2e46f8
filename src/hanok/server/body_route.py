"""Routes that take one JSON body, which FastAPI describes and which is read here: `Bodies` has parsed it already, and to solve
the dependencies of one body and one mark takes longer than to validate it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from hanok.server.bodies import VALUE_KEY
from hanok.server.identity.middleware import authorise

_MISSING = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}


class BodyRoute(APIRoute):
    """`APIRouter(route_class=BodyRoute)`: of functions that take `body` and `request` and give a response; others are left to
    FastAPI."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        taken, field = self.dependant, self.body_field
        others = (taken.path_params, taken.query_params, taken.header_params, taken.cookie_params)
        if field is None or self.response_model is not None or any(others):
            return super().get_route_handler()
        assert taken.request_param_name == "request"
        assert all(one.call is authorise for one in taken.dependencies)
        endpoint, name = self.endpoint, field.name

        async def handle(request: Request) -> Response:
            await authorise(request)
            if VALUE_KEY not in request.scope:
                raise RequestValidationError([_MISSING])
            sent = request.scope[VALUE_KEY]
            body, errors = field.validate(sent, {}, loc=("body",))
            if errors:
                raise RequestValidationError(errors, body=sent)
            return await endpoint(**{name: body}, request=request)

        return handle
