"""Samples side by side: the beginning of a held-out document, how it goes on, and how the model goes on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hanok.artefacts.shards import Shards
from hanok.engine.api import Request, SamplingParams
from hanok.evaluation.ask import Generates
from hanok.evaluation.config import VerifyConfig
from hanok.tokens.tokenizer import Tokenizer

PROMPT_TOKENS = 48
SHOWN_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Continuation:
    split: str
    prompt: str
    expected: str
    got: str


def continue_held_out(
    engine: Generates, tokenizer: Tokenizer, shards: Shards, config: VerifyConfig, *, context: int
) -> list[Continuation]:
    """Greedy continuations of `config.samples` documents of each test split: texts in the middle, chats at the answer."""
    cuts: list[tuple[str, list[int], list[int]]] = []
    for name in ("text-test", "chat-test"):
        split = shards.splits.get(name)
        if split is None or not split.num_documents or not config.samples:
            continue
        for place in range(config.samples):
            tokens, mask = split.document(place * split.num_documents // config.samples)
            cut = _cut(len(tokens), mask)
            if 0 < cut < len(tokens) and cut + SHOWN_TOKENS <= context:
                cuts.append((name, [int(t) for t in tokens[:cut]], [int(t) for t in tokens[cut:]]))
    params = SamplingParams(max_tokens=SHOWN_TOKENS, temperature=0.0, stop_ids=tokenizer.stop_ids)
    requests = [
        Request(id=str(place), prompt_ids=prompt, params=params) for place, (_, prompt, _) in enumerate(cuts)
    ]
    completions = engine.generate(requests) if requests else []
    return [
        Continuation(
            name, tokenizer.decode(prompt), tokenizer.decode(_until_stop(expected, tokenizer)),
            tokenizer.decode(completion.ids),
        )
        for (name, prompt, expected), completion in zip(cuts, completions, strict=True)
    ]  # fmt: skip


def _cut(length: int, mask: np.ndarray | None) -> int:
    """Before the first token of an answer; of a text, in the middle but not late."""
    if mask is None:
        return min(PROMPT_TOKENS, length // 2)
    return int(np.argmax(mask)) if mask.any() else 0


def _until_stop(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    stops = [place for place, token in enumerate(ids) if token in tokenizer.stop_ids]
    return ids[: min([SHOWN_TOKENS, *stops])]
