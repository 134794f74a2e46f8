"""A chat model that says what it is told to; for tests and for judges that are a rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hanok.chat.model import GREEDY, Message, Reply, Sampling

Line = str | Reply | Exception
Script = Sequence[Line] | Callable[[Sequence[Message]], Line]


@dataclass(slots=True)
class ScriptedChat:
    """Gives the lines of a list in turn, from the beginning again after the last, or what a function of the messages says.

    Args:
        script: an exception among the lines is raised.
        delay: seconds before each reply.
        asked, sampled: what it was given, in order.
    """

    script: Script
    name: str = "scripted"
    delay: float = 0.0
    asked: list[list[Message]] = field(default_factory=list)
    sampled: list[Sampling] = field(default_factory=list)

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, sampling: Sampling = GREEDY
    ) -> Reply:
        self.asked.append(list(messages))
        self.sampled.append(sampling)
        line = self._line(messages, len(self.asked) - 1)
        await asyncio.sleep(self.delay)
        if isinstance(line, Exception):
            raise line
        return Reply(content=line) if isinstance(line, str) else line

    def _line(self, messages: Sequence[Message], turn: int) -> Line:
        if callable(self.script):
            return self.script(messages)
        return self.script[turn % len(self.script)]
