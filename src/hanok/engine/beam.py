"""Beam search above the engine, for evaluation: the most probable answers that a search of some width finds.

The rules are those of `transformers`' `generate(num_beams=width, do_sample=False)` with its defaults: of all continuations the
best (1 + stop ids) * width are looked at, those that end count if they are among the first `width`, and the search is over
when the best that goes on, by its present length, cannot enter the finished ones.

Each step asks the engine for one token of every hypothesis; the prefix cache has what was read before, so a step reads
at most a block of tokens each. Models whose past is not reused are read from the start each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hanok.engine.api import MOST_ALTERNATIVES, Engine, Request, SamplingParams
from hanok.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """`ids` without the stop id; `logprob` sums over all tokens, the stop id among them; `score` is
    logprob / tokens ** length_penalty."""

    ids: tuple[int, ...]
    logprob: float
    score: float


class _Beam(NamedTuple):
    logprob: float
    ids: tuple[int, ...]


def beam_search(
    engine: Engine, prompt_ids: Sequence[int], width: int, max_tokens: int, length_penalty: float = 1.0,
    stop_ids: Sequence[int] = (), adapter: str | None = None,
) -> list[Hypothesis]:  # fmt: skip
    """The best finished hypotheses, `width` of them or as many as there are, best first. What `max_tokens` cut is finished.
    `adapter`: of the engine's, for all of them.

    Raises:
        ConfigError: a width that needs more alternatives than the engine reports.
        ContextLengthError: a hypothesis outgrew the model's context.
    """
    stops = frozenset(stop_ids)
    looked_at = max(2, 1 + len(stops)) * width
    if width < 1 or looked_at > MOST_ALTERNATIVES or max_tokens < 1:
        most = MOST_ALTERNATIVES // max(2, 1 + len(stops))
        raise ConfigError(
            f"width = {width}, max_tokens = {max_tokens}",
            remedy=f"width must be 1 to {most} with {len(stops)} stop ids, max_tokens at least 1",
        )
    live, finished = [_Beam(0.0, ())], list[Hypothesis]()
    for length in range(1, max_tokens + 1):
        best = sorted(_continued(engine, prompt_ids, live, looked_at, adapter), reverse=True)[:looked_at]
        ends = [length == max_tokens or beam.ids[-1] in stops for beam in best]
        finished += [
            _finished(beam, stops, length_penalty)
            for beam, end in zip(best[:width], ends[:width], strict=True)
            if end
        ]
        finished = sorted(finished, key=lambda one: one.score, reverse=True)[:width]
        live = [beam for beam, end in zip(best, ends, strict=True) if not end][:width]
        full = len(finished) == width
        if not live or (full and live[0].logprob / length**length_penalty <= finished[-1].score):
            break
    return finished


def _continued(
    engine: Engine, prompt_ids: Sequence[int], live: Sequence[_Beam], count: int, adapter: str | None
) -> list[_Beam]:
    """Every hypothesis with each of its `count` most probable next tokens."""
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, logprobs=count)
    requests = [
        Request(id=f"beam-{place}", prompt_ids=[*prompt_ids, *beam.ids], params=params, adapter=adapter)
        for place, beam in enumerate(live)
    ]
    continued: list[_Beam] = []
    for beam, completion in zip(live, engine.generate(requests), strict=True):
        assert completion.top_logprobs is not None
        for token, logprob in completion.top_logprobs[0].items():
            continued.append(_Beam(beam.logprob + logprob, (*beam.ids, token)))
    return continued


def _finished(beam: _Beam, stops: frozenset[int], length_penalty: float) -> Hypothesis:
    kept = beam.ids[:-1] if beam.ids[-1] in stops else beam.ids
    return Hypothesis(ids=kept, logprob=beam.logprob, score=beam.logprob / len(beam.ids) ** length_penalty)
