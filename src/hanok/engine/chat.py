"""The engine as a chat model: a model directory with its chat template behind `hanok.chat.ChatModel`.

Any number of conversations may be under way; the engine batches them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.artefacts import open_artefact
from hanok.chat import GREEDY, ChatModel, Message, Reply, Sampling, UrlChat
from hanok.engine.api import Delta, Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.text import AnswerStream, chat_prompt
from hanok.errors import CapacityError, ChatError, ConfigError, ContextLengthError


class LocalChat:
    """Args: engine: whose tokeniser has the chat template. name: for lineage."""

    def __init__(self, engine: LocalEngine, *, name: str) -> None:
        self._engine, self._name = engine, name
        self._numbers: Iterator[int] = itertools.count()

    @classmethod
    def open(cls, model_dir: Path, *, threads: int | None = None) -> LocalChat:
        """Raises ArtefactError, CheckpointError: no model there, or a damaged one."""
        artefact = open_artefact(model_dir)
        return cls(LocalEngine(model_dir, threads=threads), name=f"{model_dir.name} {artefact.hash[:12]}")

    @property
    def name(self) -> str:
        return self._name

    @property
    def engine(self) -> LocalEngine:
        return self._engine

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, sampling: Sampling = GREEDY
    ) -> Reply:
        tokenizer = self._engine.tokenizer
        request = Request(
            id=f"chat-{next(self._numbers)}",
            prompt_ids=chat_prompt(tokenizer, messages, tools=tools),
            params=self._params(sampling),
        )
        answer = AnswerStream(tokenizer, stop=sampling.stop, tools=tools is not None)
        tops: list[Mapping[str, float]] = []
        last: Delta | None = None
        try:
            async for delta in self._engine.stream(request):
                answer.push(delta.ids)
                tops += [self._by_text(top) for top in delta.top_logprobs or ()]
                last = delta
        except ContextLengthError as error:
            raise ChatError("prompt too long", str(error)) from error
        except CapacityError as error:
            raise ChatError("had no room", str(error)) from error
        assert last is not None
        if last.finish_reason in ("error", "cancelled"):
            raise ChatError("failed", f"the engine ended the reply with {last.finish_reason!r}")
        _, calls = answer.finish()
        usage = last.usage
        return Reply(
            content=answer.content, tool_calls=tuple(calls),
            finish_reason="tool_calls" if calls else str(last.finish_reason),
            top_logprobs=tuple(tops) if sampling.top_logprobs else (),
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
        )  # fmt: skip

    def close(self) -> None:
        self._engine.close()

    def _params(self, sampling: Sampling) -> SamplingParams:
        return SamplingParams(
            max_tokens=sampling.max_tokens, temperature=sampling.temperature, top_p=sampling.top_p,
            seed=sampling.seed, stop=sampling.stop, stop_ids=self._engine.tokenizer.stop_ids,
            logprobs=sampling.top_logprobs or None,
        )  # fmt: skip

    def _by_text(self, top: Mapping[int, float]) -> dict[str, float]:
        """Tokens that read alike (parts of one character) are one alternative."""
        found: dict[str, float] = {}
        for token, logprob in top.items():
            text = self._engine.tokenizer.decode([token], skip_special=False)
            before = found.get(text, -math.inf)
            high, low = max(before, logprob), min(before, logprob)
            found[text] = high + math.log1p(math.exp(low - high)) if low > -math.inf else high
        return found


def open_chat(where: str, *, model: str = "", key_variable: str = "", timeout: float = 60.0) -> ChatModel:
    """A chat model by the word that a user gives: an address, or a model directory.

    Args:
        where: `http(s)://.../v1`, or a directory. model: the name that a service knows its model by.
        key_variable: the environment variable with the service's key.

    Raises:
        ConfigError: a name or a key for a directory, or an address without a model's name.
    """
    if where.startswith(("http://", "https://")):
        if not model:
            raise ConfigError(f"{where} serves models by name", remedy='say which one, for example "hanok"')
        return UrlChat.of(where, model, key_variable=key_variable, timeout=timeout)
    if model or key_variable:
        raise ConfigError(f"{where} is a directory", remedy="a model's name and a key belong to an address")
    return LocalChat.open(Path(where))
