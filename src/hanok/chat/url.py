"""A chat model behind an OpenAI-compatible address: `POST {url}/chat/completions`.

What may pass (429, 5xx, a broken connection, a time-out) is asked again after a pause that doubles, or that the service
names in `Retry-After`; what will not pass (another 4xx) is not. The key goes into one header and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from hanok.chat.model import GREEDY, Message, Reply, Sampling
from hanok.errors import ChatError, ConfigError
from hanok.reporting import log

_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}


class _Passing(Exception):  # noqa: N818 - may be asked again
    """Args: pause: seconds that the service asks for."""

    def __init__(self, failure: ChatError, pause: float | None = None) -> None:
        super().__init__(str(failure))
        self.failure, self.pause = failure, pause


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlChat:
    """`UrlChat.of(url, model, key_variable="MY_KEY")` makes one with a key from the environment.

    Args:
        url: of the service, such as `http://127.0.0.1:8080/v1`.
        headers: for instance {"Authorization": "Bearer ..."}; they are never logged.
        timeout: seconds of one attempt. attempts: the first one included.
        pause: seconds before the second attempt; each further one waits twice as long, give or take a quarter.
        longest_pause: seconds; also of a pause that the service asks for.
        sleep, random: how it waits, and where the give or take comes from.
    """

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 60.0
    attempts: int = 4
    pause: float = 0.5
    longest_pause: float = 30.0
    transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)
    random: random.Random = field(default_factory=random.Random, repr=False)
    _tls: list[ssl.SSLContext] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or "@" in self.url.split("/")[2]:
            raise ConfigError(
                f"chat model at {_shown(self.url)!r}",
                remedy="give an address that begins with http:// or https://, without a key in it",
            )
        if self.attempts < 1 or self.timeout <= 0 or self.pause < 0:
            raise ConfigError(
                f"attempts = {self.attempts}, timeout = {self.timeout}, pause = {self.pause}",
                remedy="at least one attempt, a time above 0, a pause of 0 or more",
            )

    @classmethod
    def of(cls, url: str, model: str, *, key_variable: str = "", timeout: float = 60.0) -> UrlChat:
        """Args:
        key_variable: name of the environment variable that holds the key; "" sends none.

        Raises:
            ConfigError: that variable is not set.
        """
        if not key_variable:
            return cls(url=url, model=model, timeout=timeout)
        key = os.environ.get(key_variable, "")
        if not key:
            raise ConfigError(
                f"the environment variable {key_variable} is not set", remedy="put the service's key into it"
            )
        return cls(url=url, model=model, timeout=timeout, headers={"Authorization": f"Bearer {key}"})

    @property
    def name(self) -> str:
        return f"{self.model} at {_shown(self.url)}"

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, sampling: Sampling = GREEDY
    ) -> Reply:
        body, attempt = _body(self.model, messages, tools, sampling), 1
        while True:
            try:
                return await self._ask(body)
            except _Passing as passing:
                if attempt == self.attempts:
                    raise passing.failure from passing.__cause__
                await self._wait(attempt, passing)
            attempt += 1

    async def _ask(self, body: Mapping[str, Any]) -> Reply:
        where = _shown(self.url)
        try:
            response = await self._post(body)
        except (httpx.TimeoutException, TimeoutError) as error:
            failure = ChatError("timed out", f"{where} gave no answer within {self.timeout:g} s")
            raise _Passing(failure) from error
        except httpx.HTTPError as error:
            raise _Passing(ChatError("unreachable", f"{where}: {type(error).__name__} {error}")) from error
        if response.is_success:
            return _reply(response, where)
        failure = ChatError("refused", f"{where} answered {response.status_code}")
        if response.status_code in _PASSING:
            raise _Passing(failure, _asked_pause(response))
        raise failure

    async def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        async with (
            asyncio.timeout(self.timeout),  # httpx counts from each byte on, and a service may trickle
            httpx.AsyncClient(
                timeout=self.timeout, transport=self.transport, verify=self._verify()
            ) as client,
        ):
            return await client.post(
                f"{self.url.rstrip('/')}/chat/completions", json=body, headers=dict(self.headers)
            )

    def _verify(self) -> ssl.SSLContext | bool:
        """Certificates are read once, not once a question; where no TLS is spoken, never."""
        if not self.url.startswith("https://"):
            return False
        if not self._tls:
            self._tls.append(httpx.create_ssl_context())
        return self._tls[0]

    async def _wait(self, attempt: int, passing: _Passing) -> None:
        pause = self.pause * 2 ** (attempt - 1) * self.random.uniform(0.75, 1.25)
        pause = min(max(pause, passing.pause or 0.0), self.longest_pause)
        log.debug("%s; attempt %d follows in %.1f s", passing.failure, attempt + 1, pause)
        await self.sleep(pause)


def _body(
    model: str, messages: Sequence[Message], tools: Sequence[Any] | None, sampling: Sampling
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model, "messages": [dict(message) for message in messages], "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
    }  # fmt: skip
    if sampling.top_p != 1.0:
        body["top_p"] = sampling.top_p
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    if tools:
        body["tools"] = list(tools)
    return body


def _reply(response: httpx.Response, where: str) -> Reply:
    """Raises ChatError: not what the protocol says."""
    try:
        value = response.json()
        choice = value["choices"][0]
        message = choice["message"]
        content, calls = message.get("content"), tuple(message.get("tool_calls") or ())
        reported = (choice.get("logprobs") or {}).get("content") or ()
        tops = tuple(
            {str(top["token"]): float(top["logprob"]) for top in one.get("top_logprobs") or ()}
            for one in reported
        )
        usage = value.get("usage") or {}
        counts = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ChatError("gave no text", f"{where}: {error!r}") from error
    if not isinstance(content, str) and not (content is None and calls):
        raise ChatError("gave no text", f"{where}: content {content!r}")
    return Reply(
        content=content or "", tool_calls=calls, finish_reason=str(choice.get("finish_reason") or "stop"),
        top_logprobs=tops, prompt_tokens=counts[0], completion_tokens=counts[1],
    )  # fmt: skip


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds in `Retry-After`; the date form is left to our own pause."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _shown(url: str) -> str:
    """Without what may be a secret."""
    return url.split("?", 1)[0].split("#", 1)[0] if "@" not in url else "an address with a key in it"
