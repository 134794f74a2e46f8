"""The types that everybody who wants tokens from a model speaks (DESIGN: "One engine for everybody").

Token ids stay ids end to end; text and chat templates live above. A request's randomness comes from
(its seed, sample index, position) alone, so its tokens do not depend on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from hanok.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from hanok.tokens.watermark import Watermark

MOST_ALTERNATIVES = 256  # reported a token

FinishReason = Literal["stop", "length", "cancelled", "error"]
StructureKind = Literal["json_schema", "json_object", "regex", "lark", "choice", "tool_calls"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """What a completion must be, from its first token on (`hanok.engine.grammar` has the rules).

    Args:
        value: a JSON Schema as JSON text; nothing for "json_object"; a regular expression that the whole text matches; a
            grammar in Lark's notation or in EBNF (GBNF); a JSON list of strings of which the text is one; for
            "tool_calls" `{"functions": [{"name", "parameters"}], "several": bool}`.
    """

    kind: StructureKind
    value: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How to choose the next token.

    Args:
        max_tokens: completion tokens at most; None = up to the model's context.
        temperature: 0 is greedy (ties go to the lowest id).
        decoding: "auto": where the model has decoding heads and temperature and top_p are both left at 1.0, the heads choose
            both for each token. "fixed": temperature and top_p are what is written here.
        temperature_scale: of the temperatures that the heads choose: above 1 bolder, below 1 more careful. Refused where they do
            not choose.
        top_k: 0 keeps all. top_p, typical_p: 1.0 keeps all. min_p: 0.0 keeps all.
        seed: with the sample index and the position, the only source of randomness; None draws one per request.
        stop_ids: ids that end the completion (not part of it). stop: strings that end it (cut off).
        bad_words: words that the answer may not contain (see `engine/words.py` for what that finds).
        logprobs: number of alternatives reported per position beside the chosen one; None = no logprobs.
        prompt_logprobs: the same of the prompt's own tokens.
        n: samples of one prompt. best_of: the n with the highest mean logprob of so many (`engine/samples.py` does both).
        structure: what the completion must be; None leaves it free.
        watermark: what answers are marked with where they are drawn freely (`engine/marking.py` says where); greedy and
            structured ones are not.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    best_of: int | None = None
    structure: Structure | None = None
    decoding: Literal["auto", "fixed"] = "auto"
    temperature_scale: float = 1.0
    watermark: Watermark | None = None

    def __post_init__(self) -> None:
        for name, holds, rule in _RULES:
            if not holds(self):
                raise ConfigError(f"{name} = {getattr(self, name)!r}", remedy=f"it must be {rule}")
        if self.temperature_scale != 1.0 and not self.left_to_heads:
            raise ConfigError(
                f"temperature_scale = {self.temperature_scale!r} where no decoding heads choose",
                remedy='leave temperature and top_p at 1.0 and decoding at "auto", or leave it out',
            )

    @property
    def left_to_heads(self) -> bool:
        """Whether decoding heads choose, where the model has some."""
        return self.decoding == "auto" and self.temperature == self.top_p == 1.0


_REPORTED = range(MOST_ALTERNATIVES + 1)
_RULES: tuple[tuple[str, Callable[[SamplingParams], bool], str], ...] = (
    ("max_tokens", lambda one: one.max_tokens is None or one.max_tokens >= 1, "at least 1"),
    ("temperature", lambda one: 0.0 <= one.temperature <= 100.0, "between 0 and 100"),
    ("top_k", lambda one: one.top_k >= 0, "0 or more"),
    ("top_p", lambda one: 0.0 < one.top_p <= 1.0, "above 0 and at most 1"),
    ("min_p", lambda one: 0.0 <= one.min_p < 1.0, "at least 0 and below 1"),
    ("typical_p", lambda one: 0.0 < one.typical_p <= 1.0, "above 0 and at most 1"),
    ("repetition_penalty", lambda one: one.repetition_penalty > 0.0, "above 0"),
    ("presence_penalty", lambda one: -2.0 <= one.presence_penalty <= 2.0, "between -2 and 2"),
    ("frequency_penalty", lambda one: -2.0 <= one.frequency_penalty <= 2.0, "between -2 and 2"),
    ("logit_bias", lambda one: all(map(math.isfinite, one.logit_bias.values())), "finite numbers"),
    ("min_tokens", lambda one: one.min_tokens >= 0, "0 or more"),
    ("logprobs", lambda one: (one.logprobs or 0) in _REPORTED, f"between 0 and {MOST_ALTERNATIVES}"),
    (
        "prompt_logprobs",
        lambda one: (one.prompt_logprobs or 0) in _REPORTED,
        f"between 0 and {MOST_ALTERNATIVES}",
    ),
    ("bad_words", lambda one: all(map(str.strip, one.bad_words)), "words of at least one character"),
    ("n", lambda one: 1 <= one.n <= 128, "between 1 and 128"),
    ("best_of", lambda one: one.best_of is None or one.n <= one.best_of <= 128, "between n and 128"),
    ("temperature_scale", lambda one: 0.0 < one.temperature_scale <= 10.0, "above 0 and at most 10"),
    ("decoding", lambda one: one.decoding in ("auto", "fixed"), '"auto" or "fixed"'),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt. `deadline` is seconds of the monotonic clock; `priority`: lower runs first; `adapter`: the name of one that the
    engine has loaded, None for the model itself."""

    id: str
    prompt_ids: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    adapter: str | None = None
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None
    sample_index: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """`ids` without the stop id; `logprobs` one per id; `top_logprobs` one mapping id -> logprob per id.
    `prompt_logprobs`, `prompt_top_logprobs`: one a prompt token; nothing foretells the first, so None stands there.
    `stop_id` and `stop_logprob`: the id that ended it, where one did; learners need the token that was really drawn.
    `decoding`: the (temperature, top_p) of each id where the model's decoding heads chose them.
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[Mapping[int, float], ...] | None = None
    prompt_logprobs: tuple[float | None, ...] | None = None
    prompt_top_logprobs: tuple[Mapping[int, float] | None, ...] | None = None
    stop_id: int | None = None
    stop_logprob: float | None = None
    decoding: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """New ids of a stream. The first one carries what was asked of the prompt; the last one `finish_reason` and `usage`, and the
    id that ended it, where one did, with its alternatives (as in `Completion`)."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[Mapping[int, float], ...] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    decoding: tuple[tuple[float, float], ...] | None = None
    prompt_logprobs: tuple[float | None, ...] | None = None
    prompt_top_logprobs: tuple[Mapping[int, float] | None, ...] | None = None
    stop_id: int | None = None
    stop_logprob: float | None = None
    stop_top: Mapping[int, float] | None = None


class Engine(Protocol):
    """What the server, roll-outs, evaluation and agents call, and nothing else."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests; results in the order given (`n` > 1: one request per sample is the caller's)."""
        ...

    def stream(self, request: Request) -> AsyncIterator[Delta]:
        """Deltas as they come; closing the iterator cancels the request."""
        ...

    def follow(self, request: Request, told: Callable[[Delta | Exception], None]) -> Callable[[], None]:
        """The same for whoever has many requests under way: `told` of each delta, or of the error that ended the request, on the
        running event loop; returns what cancels it."""
        ...

    def score(self, ids: Sequence[int], *, adapter: str | None = None) -> list[float]:
        """log p(ids[t] | ids[:t]) for t >= 1, in nats: len(ids) - 1 numbers."""
        ...

    def embed(self, ids: Sequence[int], layer: int, *, adapter: str | None = None) -> Tensor:
        """Hidden vectors [len(ids), D] after `layer` (-1 = the final norm), float32."""
        ...

    def update_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace named tensors in place; running requests go on with the new weights."""
        ...
