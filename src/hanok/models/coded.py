"""Weights that a file keeps as integers: codes while nobody asks for numbers, a plain parameter from then on.

The kernels take the codes as they are. Whoever does anything else with the parameter (a product, `state_dict`, an adapter
merged in) finds the dequantised weight in it.

A plain weight may have codes beside it, what `quantise` gives for it: to find them again takes longer than to read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hanok.kernels.formats import GROUP, Quantised, Stored, quantise
from hanok.reporting import log

_SAMPLE = 64  # rows of a weight that are quantised to see whether the codes beside it are its own
_DESCRIBING = {
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.requires_grad_, Tensor.__hash__,
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "layout", "requires_grad", "is_leaf", "grad_fn", "grad", "is_meta", "is_quantized",
        "is_sparse", "ndim",
    )),
}  # fmt: skip


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
    return bool(weight.stored.scales_NG.isfinite().all())


def put_beside(weight: Tensor, codes: Stored) -> None:
    """They hold as long as the weight lies where it lies now: new numbers come in new memory."""
    weight.beside = (codes, weight.data_ptr())  # pyright: ignore[reportAttributeAccessIssue]


def has_codes(weight: Tensor, bits: int) -> bool:
    """Whether `as_quantised` has nothing to search for."""
    stored = stored_codes(weight)
    return (stored is not None and stored.bits == bits) or _beside(weight, bits) is not None


def as_quantised(weight: Tensor, bits: int) -> Quantised:
    """Its own codes where it has some of this width, else the nearest; inputs filled up to a multiple of 32."""
    stored = stored_codes(weight)
    if stored is None or stored.bits != bits:
        stored = _beside(weight, bits)
    if stored is not None:
        return stored.quantised()
    return quantise(F.pad(weight.detach(), (0, -weight.shape[1] % GROUP)), bits)


def _beside(weight: Tensor, bits: int) -> Stored | None:
    codes, place = getattr(weight, "beside", (None, 0))
    if codes is None or codes.bits != bits:
        return None
    rows = torch.linspace(0, len(weight) - 1, min(_SAMPLE, len(weight))).long()
    if weight.data_ptr() == place and codes.shape == tuple(weight.shape):
        found, own = (
            Stored(codes.codes[rows], codes.scales_NG[rows], bits, codes.cols).quantised(),
            weight[rows],
        )
        expected = quantise(own.detach(), bits)
        if torch.equal(found.q_NK, expected.q_NK) and torch.equal(found.scales_NG, expected.scales_NG):
            return codes
        log.warning("the codes beside a weight %s are not its own: it is quantised anew", tuple(weight.shape))
    del weight.beside  # pyright: ignore[reportAttributeAccessIssue]
    return None
