"""Work for the model that writes no tokens (embeddings): admitted and observed as generations are."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from hanok.server.exchange import Exchange, Outcome
from hanok.server.services import Services


@asynccontextmanager
async def admitted(services: Services, exchange: Exchange) -> AsyncGenerator[None, None]:
    """Raises ApiError if it may not begin."""
    lease = await services.admission.admit(exchange)
    exchange.principal.reply.update(lease.headers())
    for observer in services.observers:
        observer.begun(exchange)
    reason = "cancelled"
    try:
        yield
        reason = "stop"
    except Exception:
        reason = "error"
        raise
    finally:
        seconds = time.monotonic() - exchange.started
        outcome = Outcome(
            reason=reason, completion_tokens=0, cached_tokens=0, first_token_seconds=None, seconds=seconds
        )
        for observer in services.observers:
            observer.ended(exchange, outcome)
        await lease.settle(outcome)
