"""Several samples of one prompt, above the engine: one request each, the best of them by mean log-probability."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence

from hanok.engine.api import Completion, Engine, Request
from hanok.engine.blocks import BLOCK


def expand(request: Request) -> list[Request]:
    """One request a sample (`best_of` of them, or `n`), which differ by their index; the first alone reports on the prompt."""
    params = request.params
    if params.n == 1 and params.best_of is None:
        return [dataclasses.replace(request, id=f"{request.id}-0")]
    seed = secrets.randbits(63) if params.seed is None else params.seed
    count = params.best_of or params.n
    ranked = count > params.n
    of_one = dataclasses.replace(
        params, n=1, best_of=None, seed=seed, logprobs=params.logprobs or 0 if ranked else params.logprobs
    )
    return [
        dataclasses.replace(
            request,
            id=f"{request.id}-{index}",
            params=dataclasses.replace(of_one, prompt_logprobs=None) if index else of_one,
            sample_index=request.sample_index + index,
        )
        for index in range(count)
    ]


def gather(request: Request, completions: Sequence[Completion]) -> list[Completion]:
    """The `n` best of what came of `expand(request)`, the best first; all in their order if none is left out."""
    params = request.params
    if params.prompt_logprobs is not None:  # the prompt is the same to all
        first = completions[0]
        completions = [
            dataclasses.replace(
                one, prompt_logprobs=first.prompt_logprobs, prompt_top_logprobs=first.prompt_top_logprobs
            )
            for one in completions
        ]
    if (params.best_of or params.n) == params.n:
        return list(completions)
    best = sorted(completions, key=_mean_logprob, reverse=True)[: params.n]
    if params.logprobs is not None:
        return best
    return [dataclasses.replace(one, logprobs=None, top_logprobs=None) for one in best]


def generate_samples(engine: Engine, request: Request) -> list[Completion]:
    """`expand`, `generate`, `gather`. A long prompt is read once, and once more for `prompt_logprobs`: the
    samples find it in the prefix cache."""
    requests = expand(request)
    if len(requests) > 1 and len(request.prompt_ids) > BLOCK:
        once = dataclasses.replace(requests[0].params, max_tokens=1, min_tokens=0, prompt_logprobs=None)
        engine.generate([dataclasses.replace(request, id=f"{request.id}-prompt", params=once)])
    return gather(request, engine.generate(requests))


def _mean_logprob(completion: Completion) -> float:
    """Of an answer without tokens: below all others, as nothing speaks for it."""
    logprobs = completion.logprobs or ()
    return sum(logprobs) / len(logprobs) if logprobs else float("-inf")
