"""A decoder's weights on a device: a copy of its layers whose maps multiply by what lies there.

Maps of one input are joined once, so that each input is multiplied once. What is small or delicate stays plain: norms, routers,
decays and convolutions in float32; embedding, low-rank gates, and the map that latent attention absorbs in the computing type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hanok.engine.arrange import kind_of
from hanok.engine.device.matrices import Coded, Coded4, CodedStack, Plain, PlainStack, coded
from hanok.kernels.formats import Quantised, stacked_codes
from hanok.models.coded import FLOAT_MAPS, CodedParameter, as_quantised
from hanok.models.decoder import Block, Decoder
from hanok.models.gdn import GatedDeltaNet
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.kda import DeltaAttention
from hanok.models.linear import Linear
from hanok.models.mla import LatentAttention
from hanok.models.mlp import Experts, GatedMLP

DeviceKind = Literal["float32", "bf16", "int8", "int4"]
_BITS: dict[str, int] = {"int8": 8, "int4": 4}
_PLAIN_MAPS = (*FLOAT_MAPS, "kv_b_proj", "shared_gate")


class Placed:
    """Args:
    decoder: whose weights are copied; its maps may hold codes (`CodedParameter`), which stay codes in a kind of their width
        or less. kind: of linear maps, experts and the head. dtype: of products and of the residual stream.
        ends: bits of the head's codes, if not those of `kind`.
    """

    def __init__(
        self,
        decoder: Decoder,
        device: torch.device,
        kind: DeviceKind,
        dtype: torch.dtype,
        *,
        ends: int | None = None,
    ) -> None:
        self._device, self._kind, self._dtype, self._ends = device, kind, dtype, ends
        self._refills: list[Callable[[], None]] = []
        self.nbytes = 0
        with torch.device("meta"):
            model = Decoder(dataclasses.replace(decoder.config, mtp_layers=0))
            if model.lm_head is None and kind in _BITS:
                model.lm_head = Linear(model.config.hidden_size, model.config.vocab_size)
        self.model = model.eval().requires_grad_(False)
        self.model.set_compute_dtype(dtype)
        self._theirs: dict[str, nn.Module] = dict(decoder.named_modules())
        if decoder.lm_head is None and model.lm_head is not None:
            self._theirs["lm_head"] = decoder.embed_tokens
        with torch.no_grad():
            self._place()
        del self._theirs

    def refill(self) -> None:
        """Take the decoder's weights anew, in place."""
        with torch.no_grad():
            for refill in self._refills:
                refill()

    def _place(self) -> None:
        names = {module: name for name, module in self.model.named_modules()}
        joined = {group[0]: group for group in _groups(self.model)}
        followers = {linear for group in joined.values() for linear in group[1:]}
        for module, name in names.items():
            if isinstance(module, Linear):
                if module not in followers:
                    group = joined.get(module, (module,))
                    self._maps(group, [names[linear] for linear in group])
                if module.bias is not None:
                    self._plain(module, "bias", name, self._dtype)
            elif isinstance(module, Experts):
                self._experts(module, name)
            else:
                table = isinstance(module, nn.Embedding)
                own = [*module._parameters, *module._buffers]
                for part in own:
                    if getattr(module, part) is not None:
                        self._plain(module, part, name, self._dtype if table else torch.float32)

    def _maps(self, group: Sequence[Linear], names: Sequence[str]) -> None:
        def sources() -> list[Tensor]:
            return [_tensor(theirs, "weight") for theirs in modules]

        modules = [self._theirs[name] for name in names]
        plain = self._kind not in _BITS or any(name.endswith(_PLAIN_MAPS) for name in names)
        if plain:
            matrix = self._add_plain(lambda: torch.cat([_numbers(weight) for weight in sources()]))
        else:
            bits = _BITS[kind_of(sources(), self._kind)]  # type: ignore[arg-type]
            bits = self._ends or bits if names == ["lm_head"] else bits
            matrix = self._add_coded(lambda: _stacked(sources(), bits))
        first = 0
        for linear in group:
            outputs, inputs = linear.weight.shape
            weight = _nowhere(outputs, inputs, self._device)
            if isinstance(matrix, Plain):
                weight = matrix.weight_NK[first : first + outputs]
            linear.weight = nn.Parameter(weight, requires_grad=False)
            first += outputs
        if len(group) > 1:
            group[0].joined = matrix
        elif not plain:
            group[0].product = matrix

    def _experts(self, experts: Experts, name: str) -> None:
        theirs, stacks = self._theirs[name], []
        for part in ("gate_up_proj", "down_proj"):
            stacks.append(self._stack(theirs, part))
            shape = getattr(experts, part).shape
            setattr(experts, part, nn.Parameter(_nowhere(*shape, self._device), requires_grad=False))
        experts.stacks = (stacks[0], stacks[1])
        experts.few = max(experts.config.per_token, experts.config.experts // 2)
        if experts.config.biases:
            for part in ("gate_up_proj_bias", "down_proj_bias"):
                self._plain(experts, part, name, self._dtype)

    def _stack(self, theirs: nn.Module, part: str) -> PlainStack | CodedStack:
        shape = getattr(theirs, part).shape
        if self._kind not in _BITS:
            stack = PlainStack(_numbers(_tensor(theirs, part)).to(self._device, self._dtype, copy=True))
            self._refills.append(lambda: stack.fill(_numbers(_tensor(theirs, part))))
        else:
            count, inputs = shape[0], shape[2]
            bits = _BITS[kind_of([_tensor(theirs, part)], self._kind)]  # type: ignore[arg-type]
            stack = CodedStack(
                as_quantised(_tensor(theirs, part), bits), count, inputs, self._device, self._dtype
            )
            self._refills.append(lambda: stack.fill(as_quantised(_tensor(theirs, part), bits)))
        self.nbytes += stack.nbytes
        return stack

    def _add_plain(self, numbers: Callable[[], Tensor]) -> Plain:
        matrix = Plain(numbers().to(self._device, self._dtype, copy=True))
        self._refills.append(lambda: matrix.fill(numbers()))
        self.nbytes += matrix.nbytes
        return matrix

    def _add_coded(self, codes: Callable[[], Quantised]) -> Coded | Coded4:
        matrix = coded(codes(), self._device, self._dtype)
        self._refills.append(lambda: matrix.fill(codes()))
        self.nbytes += matrix.nbytes
        return matrix

    def _plain(self, module: nn.Module, part: str, name: str, dtype: torch.dtype) -> None:
        theirs = self._theirs[name]
        source = _tensor(theirs, part)
        held = source.to(self._device, dtype if source.is_floating_point() else source.dtype, copy=True)
        self._refills.append(lambda: (held.copy_(_tensor(theirs, part)), None)[1])
        self.nbytes += held.nbytes
        if part in module._buffers:
            setattr(module, part, held)
        else:
            setattr(module, part, nn.Parameter(held, requires_grad=False))


def _groups(model: Decoder) -> Iterator[tuple[Linear, ...]]:
    """Maps that the layers ask for together (`joined_linear`)."""
    for block in model.layers:
        assert isinstance(block, Block)
        mixer = block.self_attn
        if isinstance(mixer, LatentAttention):
            queries = mixer.q_proj if mixer.config.q_lora_rank is None else mixer.q_a_proj
            yield queries, mixer.kv_a_proj_with_mqa
        elif isinstance(mixer, (GroupedQueryAttention, DeltaAttention, GatedDeltaNet)):
            yield mixer.q_proj, mixer.k_proj, mixer.v_proj
        if isinstance(mixer, DeltaAttention):
            yield mixer.f_a_proj, mixer.g_a_proj, mixer.b_proj
        for module in block.mlp.modules():
            if isinstance(module, GatedMLP):
                yield module.gate_proj, module.up_proj


def _tensor(module: nn.Module, part: str) -> Tensor:
    return getattr(module, part).detach() if part in module._buffers else getattr(module, part)


def _numbers(weight: Tensor) -> Tensor:
    """Of codes, without making the decoder's own parameter plain."""
    return weight.stored.values() if isinstance(weight, CodedParameter) else weight.detach()


def _stacked(weights: Sequence[Tensor], bits: int) -> Quantised:
    """One below the other; codes of a file stay as they are."""
    return stacked_codes([as_quantised(weight, bits) for weight in weights], bits)


def _nowhere(*shape_and_device: int | torch.device) -> Tensor:
    """A weight's shape without its memory; whoever reads it finds no numbers."""
    *shape, device = shape_and_device
    return torch.full((1,) * len(shape), torch.nan, device=device).expand(*shape)  # type: ignore[arg-type]
