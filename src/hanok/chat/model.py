"""What a chat model is: messages in, one reply out (DESIGN: "One chat-model protocol for agents").

    async chat(messages, tools, sampling) -> Reply

Three implementations: `engine/chat.py` over a model directory, `url.py` over any OpenAI-compatible address, `scripted.py`
for tests. All raise `ChatError` where no reply came, with a `reason` of few words that counts can go by; whatever else
they raise is a fault of the set-up, which no other message would cure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hanok.errors import ConfigError

Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the reply is drawn; what every implementation knows.

    Args:
        temperature: 0 is greedy. seed: None draws one.
        top_logprobs: alternatives that are reported for each token of the reply, 20 at most (what public services allow).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        rules = (
            ("temperature", 0.0 <= self.temperature <= 100.0, "between 0 and 100"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("top_logprobs", 0 <= self.top_logprobs <= 20, "between 0 and 20"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ConfigError(f"{name} = {getattr(self, name)!r}", remedy=f"it must be {rule}")


GREEDY = Sampling()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the model said.

    Args:
        finish_reason: "stop", "length", "tool_calls", or what else a service says.
        top_logprobs: a token of the reply each: text of an alternative -> its log-probability. Empty if not asked for.
    """

    content: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str = "stop"
    top_logprobs: tuple[Mapping[str, float], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def message(self) -> dict[str, Any]:
        """The reply as the next message of the conversation."""
        calls = {"tool_calls": [dict(call) for call in self.tool_calls]} if self.tool_calls else {}
        return {"role": "assistant", "content": self.content, **calls}


class ChatModel(Protocol):
    """`name`: who answers, for lineage and logs; never an address with a secret in it."""

    @property
    def name(self) -> str: ...

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, sampling: Sampling = GREEDY
    ) -> Reply:
        """Raises ChatError: no reply came, and why."""
        ...
