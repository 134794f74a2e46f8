"""A model or an adapter that was not loaded because of its signature is told of before whoever wanted it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from hanok.errors import SignatureError
from hanok.server.auditing.trail import Trail


@asynccontextmanager
async def refusals_told(trail: Trail, target: str) -> AsyncGenerator[None]:
    """Args: target: the name that it was to be served by."""
    try:
        yield
    except SignatureError as error:
        await asyncio.to_thread(tell_refusal, trail, target, error)
        raise


def tell_refusal(trail: Trail, target: str, error: SignatureError, **values: Any) -> None:
    """Args: values: of the entry."""
    trail.sure("model.refused", target=target, facts={"why": error.why}, **values)
