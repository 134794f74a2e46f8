"""The load client of `hanok bench serve`, one for all servers: so many streams at once, each sending its next request when the
last one is answered. Every answer is checked to have the tokens that were asked for.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

_LONGEST = 600.0  # seconds of one request


@dataclass(frozen=True, slots=True)
class Prompt:
    """The same prompt as the message that makes it, and as ids."""

    text: str
    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Api:
    """How a server is asked. body: the JSON of a streamed request for so many tokens."""

    path: str
    body: Callable[[Prompt, int], dict[str, Any]]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one request, on the monotonic clock. id: as the answer has it. sent, read: the request, and its first token."""

    id: str
    sent: float
    read: float


@dataclass(frozen=True, slots=True)
class Load:
    """What a load gave. seconds: in all. tokens: answered in all. first: seconds to the first token of each request. moments: of
    each, where the client notes them."""

    seconds: float
    tokens: int
    first: tuple[float, ...]
    moments: tuple[Moments, ...] = ()

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def first_token(self, share: float) -> float:
        """Seconds within which so many of the requests had their first token."""
        ordered = sorted(self.first)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def put_load(base: str, api: Api, prompts: Sequence[Prompt], *, streams: int, tokens: int) -> Load:
    """Ask all of the prompts, `streams` of them at a time."""
    return asyncio.run(_put_load(base, api, prompts, streams=streams, tokens=tokens))


async def _put_load(base: str, api: Api, prompts: Sequence[Prompt], *, streams: int, tokens: int) -> Load:
    # a connection a request: some servers close kept ones under load
    limits = httpx.Limits(max_connections=streams, max_keepalive_connections=0)
    waiting = iter(prompts)
    async with httpx.AsyncClient(base_url=base, timeout=_LONGEST, limits=limits, trust_env=False) as client:

        async def stream() -> list[float]:
            return [await _ask(client, api, prompt, tokens) for prompt in waiting]

        start = time.perf_counter()
        firsts = await asyncio.gather(*(stream() for _ in range(streams)))
        seconds = time.perf_counter() - start
    return Load(seconds, tokens * len(prompts), tuple(first for found in firsts for first in found))


async def _ask(client: httpx.AsyncClient, api: Api, prompt: Prompt, tokens: int) -> float:
    """Seconds to the first token."""
    start, first, usage = time.perf_counter(), 0.0, {}
    async with client.stream(
        "POST", api.path, json=api.body(prompt, tokens), headers=api.headers
    ) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()[:500]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            if not first and any(_content(choice) for choice in chunk.get("choices") or ()):
                first = time.perf_counter() - start
    found = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if found != (len(prompt.ids), tokens):
        raise RuntimeError(
            f"{found} tokens of prompt and answer where {(len(prompt.ids), tokens)} were asked for"
        )
    return first or time.perf_counter() - start


def _content(choice: dict[str, Any]) -> str | None:
    return choice.get("text") or (choice.get("delta") or {}).get("content")


def chat_api(model: str) -> Api:
    """Hanok's: a message; guesses, endings and the feedback store switched off."""

    def body(prompt: Prompt, tokens: int) -> dict[str, Any]:
        return {
            "model": model, "messages": [{"role": "user", "content": prompt.text}], "max_completion_tokens": tokens,
            "ignore_eos": True, "temperature": 0.0, "store": False, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip

    return Api("/v1/chat/completions", body)


def ids_api(model: str) -> Api:
    """llama.cpp's and vLLM's: the ids themselves."""

    def body(prompt: Prompt, tokens: int) -> dict[str, Any]:
        return {
            "model": model, "prompt": list(prompt.ids), "max_tokens": tokens, "ignore_eos": True, "temperature": 0.0,
            "cache_prompt": False, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip

    return Api("/v1/completions", body)
