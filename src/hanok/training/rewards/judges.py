"""Who judges: a chat model in this process, one behind an OpenAI-compatible URL, or a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from hanok.errors import ConfigError
from hanok.training.rewards.base import SkipReward
from hanok.training.rewards.models import Messages, called, content_of


class ChatModel(Protocol):
    """What agents speak to as well; `chat` may be asynchronous."""

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Any = None, sampling: Any = None) -> Any: ...


@dataclass(frozen=True, slots=True)
class ChatJudge:
    """A judge over a chat model.

    Args:
        sampling: handed to the model; greedy decoding makes verdicts repeatable.
    """

    model: ChatModel
    sampling: Any = None

    async def ask(self, messages: Messages) -> str:
        return content_of(await called(self.model.chat, messages, None, self.sampling))


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlJudge:
    """A judge behind an OpenAI-compatible address, such as `http://127.0.0.1:8080/v1`.

    Args:
        headers: for instance {"Authorization": "Bearer ..."}; they are never logged.
        timeout: seconds of one request.
    """

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_tokens: int = 512
    timeout: float = 60.0
    transport: httpx.AsyncBaseTransport | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"judge at {self.url!r}", remedy="give an address that begins with http:// or https://"
            )

    async def ask(self, messages: Messages) -> str:
        body = {
            "model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens,
        }  # fmt: skip
        try:
            async with httpx.AsyncClient(timeout=self.timeout, transport=self.transport) as client:
                reply = await client.post(
                    f"{self.url.rstrip('/')}/chat/completions", json=body, headers=dict(self.headers)
                )
            reply.raise_for_status()
            return content_of(reply.json()["choices"][0]["message"])
        except httpx.TimeoutException as error:
            raise SkipReward(
                "judge timed out", f"{self.url} gave no answer within {self.timeout:g} s"
            ) from error
        except httpx.HTTPStatusError as error:
            raise SkipReward("judge refused", f"{self.url} answered {error.response.status_code}") from error
        except httpx.HTTPError as error:
            raise SkipReward("judge unreachable", f"{self.url}: {error}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise SkipReward("judge gave no text", f"{self.url}: {error!r}") from error


@dataclass(slots=True)
class ScriptedJudge:
    """Gives the replies of a list in turn, and keeps what it was asked; for tests."""

    replies: Sequence[str]
    asked: list[Messages] = field(default_factory=list)

    async def ask(self, messages: Messages) -> str:
        self.asked.append(messages)
        return self.replies[(len(self.asked) - 1) % len(self.replies)]
