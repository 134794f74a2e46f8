"""The routes, a file for each family: `router(services)` makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter

from hanok.server.routes import (
    chat,
    completions,
    conversations,
    embeddings,
    feedback,
    models,
    operations,
    page,
    reports,
    tokens,
)  # fmt: skip
from hanok.server.services import Services

ROUTERS: Sequence[Callable[[Services], APIRouter]] = (
    chat.router,
    completions.router,
    embeddings.router,
    tokens.router,
    models.router,
    feedback.router,
    conversations.router,
    operations.router,
    reports.router,
    page.router,
)
