"""The routes, a file for each family: `router(services)` makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter

from hanok.server.routes import chat, conversations, feedback, models, page
from hanok.server.services import Services

ROUTERS: Sequence[Callable[[Services], APIRouter]] = (
    chat.router,
    models.router,
    feedback.router,
    conversations.router,
    page.router,
)
