"""The routes, a file for each family: `router(services)` makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter

from hanok.server.routes import admin_keys, admin_people, chat, feedback, models, page, session
from hanok.server.services import Services

ROUTERS: Sequence[Callable[[Services], APIRouter]] = (
    chat.router,
    models.router,
    feedback.router,
    page.router,
    session.router,
    admin_keys.router,
    admin_people.router,
)
