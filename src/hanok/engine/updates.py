"""Tensors that replace a running model's, looked at before any of them is taken."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hanok.engine.paged_model import PagedModel
from hanok.errors import InputError
from hanok.models.decoder import Decoder


def tensors_to_replace(
    decoder: Decoder, weights: Mapping[str, Tensor], model: PagedModel | None
) -> dict[str, Tensor]:
    """The decoder's own tensors by name.

    Raises:
        InputError: a name or shape that it does not have, NaN or infinity, numbers too large for the kind of weights it runs in.
    """
    saved = decoder.state_dict(keep_vars=True).keys()
    mine: dict[str, Tensor] = {
        **dict(decoder.named_parameters()),
        **{name: buffer for name, buffer in decoder.named_buffers() if name in saved},
    }
    for name, tensor in weights.items():
        if name not in mine or mine[name].shape != tensor.shape:
            known = tuple(mine[name].shape) if name in mine else "no such tensor"
            raise InputError(
                f"{name} of shape {tuple(tensor.shape)}: the model has {known}", remedy="give its tensors"
            )
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"{name} holds NaN or infinity", remedy="the weights stay as they are: give sound ones"
            )
        why = None if model is None else model.why_not_held(tensor)
        if why is not None:
            raise InputError(
                f"{name} holds numbers too large for {why}",
                remedy="the weights stay as they are: give smaller ones, or run in bf16",
            )
    return mine
