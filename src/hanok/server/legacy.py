"""OpenAI's plain completions: prompts as text or ids, what is said of them and of the answers.

`logprobs` have the old form: four lists over tokens (of the prompt first, with `echo`), the alternatives by their text.
Where the answer was ended by a token of its own and `echo` asks how probable everything was, that token is reported last,
with no text: readers such as lm-eval count on one reported token behind the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, model_validator

from hanok.engine.api import Completion, Delta, SamplingParams, Usage
from hanok.server.formats import StructureFields
from hanok.server.prompts import MOST_PROMPTS, Prompts
from hanok.server.sampling import Refusing, SamplingFields
from hanok.tokens.tokenizer import Tokenizer

DEFAULT_TOKENS = 16  # OpenAI's
LEAST = -9999.0  # JSON has no infinity


class CompletionRequest(SamplingFields, StructureFields, Refusing):
    """Body of POST /v1/completions."""

    model: str
    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = DEFAULT_TOKENS
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=16)] | None = None
    add_special_tokens: bool = True
    """vLLM's: whether a prompt of text stands behind the separator that every training document has."""

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {"suffix": "this server continues a text, it does not fill it in"}

    @model_validator(mode="after")
    def _fits_together(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens = 0 needs echo = true: there would be nothing to say")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ValueError(f"best_of = {self.best_of} is less than n = {self.n or 1}")
        if self.best_of is not None and self.best_of > (self.n or 1) and self.stream:
            raise ValueError("best_of cannot be streamed: which answers are best shows at their end")
        if self.stream and self.max_tokens == 0:
            raise ValueError("max_tokens = 0 cannot be streamed: nothing comes after the prompt")
        if self.prompt in ("", []):
            raise ValueError("prompt: give at least one token or character")
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        count = (len(self.prompt) if several else 1) * (self.best_of or self.n or 1)
        if count > MOST_PROMPTS:
            raise ValueError(f"{count} answers in one request: {MOST_PROMPTS} at most")
        return self

    def sampling(self) -> SamplingParams:
        return SamplingParams(
            **self.sampling_fields(),
            max_tokens=None if self.max_tokens is None else max(self.max_tokens, 1),
            best_of=self.best_of if (self.best_of or 0) > (self.n or 1) else None,
            logprobs=self.logprobs,
            prompt_logprobs=self.logprobs if self.echo and self.logprobs is not None else None,
            structure=self.format(),
        )


@dataclass(slots=True)
class Collected:
    """The deltas of one sample put together."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[Mapping[int, float]] = field(default_factory=list)
    first: Delta | None = None
    last: Delta | None = None

    def push(self, delta: Delta) -> None:
        self.ids += delta.ids
        self.logprobs += delta.logprobs or ()
        self.tops += delta.top_logprobs or ()
        self.first = self.first or delta
        self.last = delta

    def completion(self, *, logprobs: bool) -> Completion:
        first, last = self.first, self.last
        assert first is not None
        assert last is not None
        return Completion(
            ids=tuple(self.ids), finish_reason=last.finish_reason or "error",
            usage=last.usage or Usage(prompt_tokens=0, completion_tokens=len(self.ids)),
            logprobs=tuple(self.logprobs) if logprobs else None, top_logprobs=tuple(self.tops) if logprobs else None,
            prompt_logprobs=first.prompt_logprobs, prompt_top_logprobs=first.prompt_top_logprobs,
            stop_id=last.stop_id, stop_logprob=last.stop_logprob,
        )  # fmt: skip


class TokenLog:
    """The four lists, written token by token in the order of the text."""

    def __init__(self, tokenizer: Tokenizer, alternatives: int) -> None:
        self._tokenizer, self._alternatives = tokenizer, alternatives
        self._decoder = tokenizer.stream_decoder()
        self._offset = 0

    def write(
        self, ids: Sequence[int], logprobs: Sequence[float | None], tops: Sequence[Mapping[int, float] | None]
    ) -> dict[str, Any]:
        """Of these tokens, which follow those of the calls before."""
        entry: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, logprob, top in zip(ids, logprobs, tops, strict=True):
            entry["tokens"].append(self._text(token))
            entry["token_logprobs"].append(None if logprob is None else max(logprob, LEAST))
            entry["top_logprobs"].append(self._alternatives_of(token, logprob, top))
            added = self._decoder.push(token)  # with what bytes before it left unfinished
            entry["text_offset"].append(self._offset + max(0, len(added) - self._width(token)))
            self._offset += len(added)
        return entry

    def _alternatives_of(
        self, token: int, logprob: float | None, top: Mapping[int, float] | None
    ) -> dict[str, float] | None:
        """With the token itself, as OpenAI has it. Of tokens that read alike the likeliest stands."""
        if top is None or logprob is None or not self._alternatives:
            return None
        found: dict[str, float] = {}
        for one, value in (*top.items(), (token, logprob)):
            text = self._text(one)
            found[text] = max(found.get(text, LEAST), value)
        return found

    def _width(self, token: int) -> int:
        return len(self._tokenizer.token_bytes(token).decode("utf-8", "replace"))

    def _text(self, token: int) -> str:
        """Bytes that are no characters by themselves are written out, as OpenAI does: two such tokens stay two."""
        raw = self._tokenizer.token_bytes(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
