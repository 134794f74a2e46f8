"""A classifier behind an address: what is sent to it, how its answer is read, and what happens when it does not give one.

    webhook       POST to the address: {"text", "direction", "origin", "before", "model"?}
                  -> {"categories": {NAME: score or true}} or {"score"} or {"flagged"}
    moderations   POST {address}/moderations: {"input", "model"?} -> OpenAI's {"results": [{"categories", "category_scores"}]}
    chat          POST {address}/chat/completions to a guard model that answers in a word: "safe", or "unsafe" with its categories
                  (Llama Guard, Qwen3Guard, Kanana Safeguard, Granite Guardian's yes and no)

Connections are kept alive, few requests run at once, and whoever fails three times in a row is not asked for a while.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

Style = Literal["webhook", "moderations", "chat"]
STYLES: tuple[Style, ...] = ("webhook", "moderations", "chat")
THRESHOLD = 0.5
_MOST_BYTES = 1 << 18  # of an answer
_FAILURES, _REST = 3, 5.0  # in a row, and seconds
_PATHS: Mapping[Style, str] = {"webhook": "", "moderations": "/moderations", "chat": "/chat/completions"}
_TOKENS = 64  # of a guard model's answer
_VERDICT = re.compile(r"(?<![a-z])(safe|unsafe|controversial|yes|no)(?![a-z])", re.I)
_CODE = re.compile(r"(?<![A-Za-z0-9])[A-Z]{1,2}\d{1,2}(?!\d)")
_NAMED = re.compile(r"categor(?:y|ies)\s*:\s*([^\n]+)", re.I)


class RemoteError(Exception):
    """The classifier gave no verdict."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A text to judge. `before`: what stands before it. `question`: what an answer answers."""

    text: str
    direction: str
    origin: str
    before: str = ""
    question: str = ""


@dataclass(frozen=True, kw_only=True)
class Service:
    """Args: timeout: seconds of one request and of waiting for its turn. concurrency: requests at once. headers: never logged."""

    url: str
    style: Style = "webhook"
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 2.0
    concurrency: int = 8
    threshold: float | None = None
    clock: Callable[[], float] = time.monotonic


class Remote:
    """Asks a service. For threads: it blocks the one that it is called in, never longer than the timeout."""

    def __init__(self, service: Service) -> None:
        self._service = service
        path = _PATHS[service.style]
        self._url = (
            service.url.rstrip("/") + path
            if path and not service.url.rstrip("/").endswith(path)
            else service.url
        )
        import httpx  # few policies ask anybody

        self._lost = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
        self._errors = (RemoteError, httpx.HTTPError, httpx.InvalidURL)
        few = httpx.Limits(max_connections=service.concurrency, max_keepalive_connections=service.concurrency)
        self._client = httpx.Client(
            timeout=service.timeout,
            limits=few,
            headers=dict(service.headers),
            trust_env=False,
            follow_redirects=False,
        )
        self._pool = ThreadPoolExecutor(service.concurrency, thread_name_prefix="guard-remote")
        self._lock = threading.Lock()
        self._failures, self._until = 0, 0.0
        weakref.finalize(self, self._client.close)  # a policy that was taken out of use

    def ask(self, asked: Asked) -> dict[str, float]:
        """Categories that it found with their scores from 0 to 1; "" is one without a name.

        Raises:
            RemoteError: no answer in time, one that says it failed, or one that makes no sense.
        """
        return self._ended(self._begun(asked))

    def ask_all(self, every: Iterable[Asked]) -> Iterator[dict[str, float]]:
        """In their order, as many at once as may be. Raises RemoteError: as `ask`, for the first that fails."""
        running: deque[Future[Any]] = deque()
        try:
            for asked in every:
                running.append(self._begun(asked))
                if len(running) >= self._service.concurrency:
                    yield self._ended(running.popleft())
            while running:
                yield self._ended(running.popleft())
        finally:
            for one in running:
                one.cancel()

    def _begun(self, asked: Asked) -> Future[Any]:
        with self._lock:
            if self._service.clock() < self._until:
                raise RemoteError("failed a moment ago, and is not asked")
        return self._pool.submit(self._fetch, _body(asked, self._service))

    def _ended(self, answer: Future[Any]) -> dict[str, float]:
        try:
            found = _READ[self._service.style](answer.result(self._service.timeout), self._service.threshold)
        except TimeoutError as error:
            answer.cancel()
            raise self._failed(f"no answer in {self._service.timeout:g} s") from error
        except self._errors as error:
            raise self._failed(str(error) or type(error).__name__) from error
        with self._lock:
            self._failures = 0
        return found

    def _failed(self, reason: str) -> RemoteError:
        with self._lock:
            self._failures += 1
            if self._failures >= _FAILURES:
                self._failures, self._until = 0, self._service.clock() + _REST
        return RemoteError(reason)

    def _fetch(self, body: Mapping[str, Any]) -> Any:
        try:
            return self._post(body)
        except self._lost:  # a kept connection that the other end had closed; asking twice does no harm
            return self._post(body)

    def _post(self, body: Mapping[str, Any]) -> Any:
        with self._client.stream("POST", self._url, json=body) as answer:
            if answer.status_code != 200:
                raise RemoteError(f"answered with status {answer.status_code}")
            raw = bytearray()
            for part in answer.iter_bytes():
                raw += part
                if len(raw) > _MOST_BYTES:
                    raise RemoteError(f"answered with more than {_MOST_BYTES} bytes")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise RemoteError("answered with something that is not JSON") from error


def _body(asked: Asked, service: Service) -> dict[str, Any]:
    model = {} if service.model is None else {"model": service.model}
    if service.style == "webhook":
        about = {"direction": asked.direction, "origin": asked.origin, "before": asked.before}
        return {"text": asked.text, **about, **model}
    text = asked.before + asked.text
    if service.style == "moderations":
        return {"input": text, **model}
    said = [{"role": "assistant" if asked.direction == "output" else "user", "content": text}]
    if asked.direction == "output":
        said.insert(0, {"role": "user", "content": asked.question or "-"})
    return {"messages": said, "temperature": 0, "max_tokens": _TOKENS, **model}


def _read_webhook(answer: Any, threshold: float | None) -> dict[str, float]:
    least = THRESHOLD if threshold is None else threshold
    if not isinstance(answer, dict):
        raise RemoteError("answered with something that is no object")
    if "categories" in answer:
        return _above(answer["categories"], least)
    if "score" in answer:
        return _above({"": answer["score"]}, least)
    if isinstance(answer.get("flagged"), bool):
        return {"": 1.0} if answer["flagged"] else {}
    raise RemoteError("answered without categories, score or flagged")


def _read_moderations(answer: Any, threshold: float | None) -> dict[str, float]:
    try:
        results = answer["results"]
        found = [
            _above(one["categories"] if threshold is None else one["category_scores"], threshold or THRESHOLD)
            for one in results
        ]
    except (KeyError, TypeError) as error:
        raise RemoteError("answered without the results of a moderation") from error
    if not found:
        raise RemoteError("answered without the results of a moderation")
    return {name: score for one in found for name, score in one.items()}


def _read_chat(answer: Any, _threshold: float | None) -> dict[str, float]:
    try:
        text = answer["choices"][0]["message"]["content"]
        said = _VERDICT.search(text)
    except (KeyError, TypeError, IndexError) as error:
        raise RemoteError("answered without a message") from error
    if said is None:
        raise RemoteError("answered neither safe nor unsafe")
    if said[1].lower() in ("safe", "no"):
        return {}
    rest = text[said.end() :]
    named = _NAMED.search(rest)
    names = [one.strip() for one in named[1].split(",")] if named else _CODE.findall(rest)
    return {name: 1.0 for name in names if name and name.lower() != "none"} or {"": 1.0}


def _above(scores: Any, least: float) -> dict[str, float]:
    if not isinstance(scores, dict):
        raise RemoteError("answered with categories that are no object")
    read = {str(name): 0.0 if score is None else score for name, score in scores.items()}
    for score in read.values():
        if not isinstance(score, (bool, int, float)) or not math.isfinite(score):
            raise RemoteError("answered with a score that is no number")
    return {name: float(score) for name, score in read.items() if score >= least and score}


_READ: Mapping[Style, Callable[[Any, float | None], dict[str, float]]] = {
    "webhook": _read_webhook, "moderations": _read_moderations, "chat": _read_chat,
}  # fmt: skip
