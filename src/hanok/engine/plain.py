"""One text through the model's layers in PyTorch, from its beginning and without a cache.

n tokens at a time, N of the text, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hanok.models.decoder import Decoder
from hanok.models.linear import LowRank
from hanok.models.lora_rows import acting_on


def text_logits(
    decoder: Decoder, ids: Sequence[int], lows: Mapping[str, LowRank] | None, *, rows: int
) -> Iterator[Tensor]:
    """logits_nV behind every token, float32, at most `rows` of them at a time. `lows`: an adapter."""
    for hidden_nD in _hidden(decoder, ids, lows).split(rows):
        with acting_on(decoder, [lows] * len(hidden_nD)):
            logits_nV = decoder.logits(hidden_nD)
        yield logits_nV


def hidden_after(
    decoder: Decoder, ids: Sequence[int], lows: Mapping[str, LowRank] | None, *, layer: int
) -> Tensor:
    """Hidden vectors [N, D], float32, after block `layer`, or after the final norm (-1)."""
    kept: list[Tensor] = []
    module = decoder.norm if layer == -1 else decoder.layers[layer]

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        kept.append(output)

    hook = module.register_forward_hook(keep)
    try:
        _hidden(decoder, ids, lows)
    finally:
        hook.remove()
    return kept[0].float()


def _hidden(decoder: Decoder, ids: Sequence[int], lows: Mapping[str, LowRank] | None) -> Tensor:
    device = decoder.embed_tokens.weight.device
    bounds = torch.tensor([0, len(ids)], dtype=torch.int32, device=device)
    with acting_on(decoder, [lows] * len(ids)):
        hidden_ND, _ = decoder(torch.tensor(ids, device=device), bounds)
    return hidden_ND
