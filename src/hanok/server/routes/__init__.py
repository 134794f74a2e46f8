"""The routes, a file for each family: `router(services)` makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter

from hanok.server.routes import (
    admin_keys,
    admin_people,
    approvals,
    audit,
    canary,
    chat,
    completions,
    conversations,
    documents,
    embeddings,
    extraction,
    feedback,
    hosting,
    messages,
    models,
    moderations,
    operations,
    page,
    policy,
    reports,
    responses,
    reviews,
    session,
    tokens,
    transparency,
    usage,
    watermark,
)
from hanok.server.services import Services

ROUTERS: Sequence[Callable[[Services], APIRouter]] = (
    chat.router,
    completions.router,
    responses.router,
    messages.router,
    embeddings.router,
    moderations.router,
    tokens.router,
    models.router,
    feedback.router,
    reviews.router,
    conversations.router,
    documents.router,
    canary.router,
    hosting.router,
    operations.router,
    reports.router,
    page.router,
    session.router,
    admin_keys.router,
    admin_people.router,
    usage.router,
    transparency.router,  # before the audit, whose paths end in a number
    audit.router,
    watermark.router,
    extraction.router,
    policy.router,
    approvals.router,
)
