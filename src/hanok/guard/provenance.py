"""Where each stretch of what a model reads comes from, and who can have written it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Origin = Literal["system", "user", "assistant", "tool", "document", "definition"]
ORIGINS: tuple[Origin, ...] = ("system", "user", "assistant", "tool", "document", "definition")
UNTRUSTED: frozenset[Origin] = frozenset({"tool", "document"})  # by strangers, whoever passes it on


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of text of one origin.

    Args:
        where: for people: "messages.2", "tools", "prompt".
        start: of it in the text of that place, so that a finding there has a place in the whole.
    """

    text: str
    origin: Origin
    where: str = ""
    start: int = 0

    @property
    def trusted(self) -> bool:
        """The operator or the user wrote it. What the model said counts as the user's: clients put words in its mouth."""
        return self.origin not in UNTRUSTED
