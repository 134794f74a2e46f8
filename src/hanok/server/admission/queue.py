"""How many tokens of prompts may wait to be read: a few long documents fill a queue that is short in requests."""

from __future__ import annotations

from hanok.server.errors import ApiError

RETRY_SECONDS = 5


class PromptQueue:
    """Prompts of answers that have not begun, in one process.

    Args:
        most: tokens; None for any number. A single prompt may always wait.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most, self.tokens = most, 0

    def enter(self, tokens: int) -> None:
        """Raises ApiError 503 with Retry-After if there is no room."""
        if self._most is not None and self.tokens and self.tokens + tokens > self._most:
            raise ApiError(
                503, f"{self.tokens} prompt tokens are waiting, and {self._most} may; try again in {RETRY_SECONDS} seconds",
                code="queue_full", headers={"Retry-After": str(RETRY_SECONDS)},
            )  # fmt: skip
        self.tokens += tokens

    def leave(self, tokens: int) -> None:
        self.tokens -= tokens
