"""Routes that take one JSON body, which FastAPI describes and which are found and read here: `Bodies` has parsed the body, and to
look through all routes and to solve the dependencies of one body and one mark takes longer than to validate it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from hanok.server.bodies import VALUE_KEY
from hanok.server.identity.middleware import authorise

_MISSING = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class BodyRoute(APIRoute):
    """`APIRouter(route_class=BodyRoute)`: of functions that take `body` and `request` and give a response; others are left to
    FastAPI."""

    def get_route_handler(self) -> Handler:
        return self.straight_handler() or super().get_route_handler()

    def straight_handler(self) -> Handler | None:
        """None where it takes more than a body."""
        taken, field = self.dependant, self.body_field
        others = (taken.path_params, taken.query_params, taken.header_params, taken.cookie_params)
        if field is None or self.response_model is not None or any(others):
            return None
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


class Straight:
    """In front of a router: what is asked of a `BodyRoute` goes there, anything else through the router.

    Args:
        routes: of the router, in its order; those of one path each.
    """

    def __init__(self, router: ASGIApp, routes: Iterable[Any]) -> None:
        self._router = router
        self._routes: dict[tuple[str, str], tuple[BodyRoute, Handler]] = {}
        for route in routes:
            handle = route.straight_handler() if isinstance(route, BodyRoute) else None
            if handle is not None and not route.param_convertors:
                for method in route.methods or ():
                    self._routes.setdefault((method, route.path), (route, handle))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if found is None:
            await self._router(scope, receive, send)
            return
        route, handle = found
        scope.update(route=route, endpoint=route.endpoint, path_params={})
        response = await handle(Request(scope, receive, send))
        await response(scope, receive, send)
