"""Texts through the model's layers in PyTorch, from their beginning and without a cache.

n tokens at a time, N of the text, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hanok.models.decoder import Decoder
from hanok.models.linear import LowRank
from hanok.models.lora_rows import acting_on


def text_logits(
    decoder: Decoder, ids: Sequence[int], lows: Mapping[str, LowRank] | None, *, rows: int
) -> Iterator[Tensor]:
    """logits_nV behind every token, float32, at most `rows` of them at a time. `lows`: an adapter."""
    for hidden_nD in _hidden(decoder, [ids], lows).split(rows):
        with acting_on(decoder, [lows] * len(hidden_nD)):
            logits_nV = decoder.logits(hidden_nD)
        yield logits_nV


def hidden_after(
    decoder: Decoder, texts: Sequence[Sequence[int]], lows: Mapping[str, LowRank] | None, *, layers: Sequence[int]
) -> list[list[Tensor]]:  # fmt: skip
    """Of each text, for each layer: hidden vectors [N, D], float32, after that block, or after the final norm (-1). All texts
    go through the model together."""
    kept: dict[int, Tensor] = {}

    def keeper(layer: int) -> Callable[[object, object, Tensor], None]:
        def keep(_module: object, _inputs: object, output: Tensor) -> None:
            kept[layer] = output

        return keep

    places = {layer: decoder.norm if layer == -1 else decoder.layers[layer] for layer in layers}
    hooks = [module.register_forward_hook(keeper(layer)) for layer, module in places.items()]
    try:
        _hidden(decoder, texts, lows)
    finally:
        for hook in hooks:
            hook.remove()
    lengths = [len(ids) for ids in texts]
    by_layer = [kept[layer].float().split(lengths) for layer in layers]
    return [list(of_text) for of_text in zip(*by_layer, strict=True)]


def _hidden(decoder: Decoder, texts: Sequence[Sequence[int]], lows: Mapping[str, LowRank] | None) -> Tensor:
    device = decoder.embed_tokens.weight.device
    ids_N = torch.tensor([token for ids in texts for token in ids], device=device)
    lengths_B = torch.tensor([0, *map(len, texts)], dtype=torch.int32, device=device)
    with acting_on(decoder, [lows] * len(ids_N)):
        hidden_ND, _ = decoder(ids_N, lengths_B.cumsum(0, dtype=torch.int32))
    return hidden_ND
