"""A model that says what a test wrote, cut where the test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from hanok.engine.api import Delta, Request, Usage
from hanok.tokens.tokenizer import Tokenizer

CONTROL = {"<think>", "</think>", "<tool_call>", "</tool_call>"}


class Script:
    """In place of an engine's `follow`.

    Attributes:
        pieces: what it says, a delta each. asked: prompts that it was given, as text. said: tokens of the last answer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        whole = {n: tokenizer.token_bytes(n) for n in range(tokenizer.vocab_size)}
        self._of_byte = {raw[0]: n for n, raw in whole.items() if len(raw) == 1}
        self.pieces: list[list[int]] = []
        self.asked: list[str] = []
        self.said = 0

    def says(self, *pieces: str | bytes, control: bool = False) -> None:
        """One token a byte; with `control`, pieces named like control tokens are those."""
        self.pieces = [self._ids(piece, control) for piece in pieces if piece]
        self.asked.clear()

    def _ids(self, piece: str | bytes, control: bool) -> list[int]:
        if control and piece in CONTROL:
            return [self.tokenizer.special[str(piece)]]
        raw = piece if isinstance(piece, bytes) else piece.encode()
        return [self._of_byte[byte] for byte in raw]

    def follow(self, request: Request, told: Callable[[Delta | Exception], None]) -> Callable[[], None]:
        """A delta each turn of the loop, until cancelled."""
        loop, deltas = asyncio.get_running_loop(), self._deltas(request)
        cancelled = False

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True

        def go_on() -> None:
            delta = None if cancelled else next(deltas, None)
            if delta is not None:
                told(delta)
                loop.call_soon(go_on)

        self.asked.append(self.tokenizer.decode(request.prompt_ids))
        loop.call_soon(go_on)
        return cancel

    def _deltas(self, request: Request) -> Iterator[Delta]:
        wants, total = request.params.logprobs is not None, 0
        alternative = self._of_byte[ord("z")]
        for place, ids in enumerate(self.pieces):
            total += len(ids)
            self.said = total
            last = place == len(self.pieces) - 1
            usage = Usage(prompt_tokens=len(request.prompt_ids), completion_tokens=total)
            yield Delta(
                ids=tuple(ids), logprobs=tuple(-0.5 for _ in ids) if wants else None,
                top_logprobs=tuple({alternative: -1.0, one: -0.5} for one in ids) if wants else None,
                finish_reason="stop" if last else None, usage=usage if last else None,
            )  # fmt: skip
