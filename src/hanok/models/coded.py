"""Weights that a file keeps as integers: codes while nobody asks for numbers, a plain parameter from then on.

The kernels take the codes as they are. Whoever does anything else with the parameter (a product, `state_dict`, an adapter
merged in) finds the dequantised weight in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hanok.kernels.formats import GROUP, Quantised, Stored, quantise

_DESCRIBING = {
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.requires_grad_, Tensor.__hash__,
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "layout", "requires_grad", "is_leaf", "grad_fn", "grad", "is_meta", "is_quantized",
        "is_sparse", "ndim",
    )),
}  # fmt: skip


# decay, write strength and gates of delta attention: small, but what they say is multiplied up over a whole text: no codes
FLOAT_MAPS = ("f_a_proj", "f_b_proj", "b_proj", "a_proj", "g_a_proj", "g_b_proj")


class CodedParameter(nn.Parameter):
    """Has shape and type of the dequantised weight, and no memory for it until a function needs its numbers."""

    stored: Stored

    @staticmethod
    def of(stored: Stored) -> CodedParameter:
        nothing = torch.full((1, 1), torch.nan, dtype=stored.scales_NG.dtype)
        parameter = CodedParameter(nothing.expand(stored.shape), requires_grad=False)
        parameter.stored = stored
        return parameter

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _DESCRIBING:
            for one in pytree.tree_leaves((args, kwargs)):
                if isinstance(one, CodedParameter):
                    one._become_plain()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def _become_plain(self) -> None:
        self.__class__ = nn.Parameter  # pyright: ignore[reportAttributeAccessIssue]
        with torch.inference_mode(False):  # the parameter outlives the call that asks
            self.data = self.stored.values()


def stored_codes(weight: Tensor) -> Stored | None:
    """The codes that a weight was read from, if it still is what they say."""
    stored = getattr(weight, "stored", None)
    if isinstance(weight, CodedParameter) or not isinstance(stored, Stored):
        return stored
    return stored if torch.equal(weight.detach(), stored.values()) else None


def finite_codes(weight: CodedParameter) -> bool:
    parts = (weight.stored.scales_NG, weight.stored.zeros_NG)
    return all(bool(part.isfinite().all()) for part in parts if part is not None)


def as_quantised(weight: Tensor, bits: int, group: int = GROUP) -> Quantised:
    """Its own codes where it has some of at most this width (their groups must not be smaller), else the nearest. Inputs are
    filled up to a multiple of the group. Experts of a stack stand one below the other."""
    stored = stored_codes(weight)
    if stored is not None and stored.bits <= bits:
        return replace(stored.quantised(group), bits=bits).changed(lambda part: part.flatten(0, -2))
    rows_NK = weight.detach().flatten(0, -2)
    return quantise(F.pad(rows_NK, (0, -rows_NK.shape[1] % group)), bits, group)


def stored_parts(model: nn.Module) -> Iterator[Tensor]:
    """What a model just read holds of its file: parameters, or their codes, scales and zero points."""
    for parameter in model.parameters():
        stored = getattr(
            parameter, "stored", None
        )  # also of those that have become plain: their codes were read
        if isinstance(stored, Stored):
            yield stored.codes
            yield stored.scales_NG
            if stored.zeros_NG is not None:
                yield stored.zeros_NG
        else:
            yield parameter.detach()
