"""Muon for matrices, AdamW for everything else, under one roof with exact, pickle-free state.

Muon (Jordan et al. 2024; scale of Liu et al. 2025, arXiv 2502.16982): the momentum of a matrix is replaced by the
nearest (semi-)orthogonal one, found by Newton-Schulz iterations, times 0.2 sqrt(max(rows, columns)), which is the root
mean square of an AdamW update. `torch.optim.Muon` goes matrix by matrix; here matrices of one shape are a stack
[S, O, I] and one batched product, which is what makes it cheap for the small matrices of a small model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hanok.errors import CheckpointError
from hanok.training.config import TrainConfig
from hanok.training.team import Team, fill, local

_NS = (3.4445, -4.7750, 2.0315)
_EPS = 1e-7


def newton_schulz(matrices_SOI: Tensor, *, steps: int, dtype: torch.dtype) -> Tensor:
    """Approximate polar factor of each matrix in a stack (singular values to about 0.7 ... 1.2), in `dtype`."""
    a, b, c = _NS
    tall = matrices_SOI.shape[1] > matrices_SOI.shape[2]
    x = (matrices_SOI.mT if tall else matrices_SOI).to(dtype)
    x = x / x.flatten(1).norm(dim=1).clamp_min(_EPS)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@dataclass(slots=True)
class _Stack:
    """Parameters that share a matrix shape; a parameter [E, O, I] counts as E matrices. Of a sharded parameter the rows
    (or the experts) that this process holds."""

    names: list[str]
    parameters: list[Tensor]
    momentum_SOI: Tensor


class Muon:
    """Orthogonalised momentum (Nesterov) with decoupled weight decay.

    Args:
        parameters: by name, each [O, I] or a stack of experts [E, O, I].
        dtype: of the Newton-Schulz products.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], *, lr: float, weight_decay: float, momentum: float, steps: int,
        dtype: torch.dtype, team: Team = Team(),
    ) -> None:  # fmt: skip
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self._steps, self._dtype = steps, dtype
        self._team = team
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for name, parameter in parameters.items():
            shape = tuple(parameter.shape[-2:])
            by_shape.setdefault(shape if team.alone else (parameter.dim(), *shape), []).append(name)
        self._stacks = []
        for names in by_shape.values():
            held = [local(parameters[name].detach()) for name in names]
            zeros_SOI = held[0].new_zeros(sum(map(_matrices, held)), *held[0].shape[-2:], dtype=torch.float32)
            self._stacks.append(_Stack(names, [parameters[name] for name in names], zeros_SOI))

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at `factor` times the learning rate; parameters without gradient count as gradient zero."""
        for stack in self._stacks:
            weights = [local(p.detach()) for p in stack.parameters]
            gradients = [None if p.grad is None else local(p.grad) for p in stack.parameters]
            gradient_SOI = torch.cat([
                _as_stack(torch.zeros_like(weight) if gradient is None else gradient)
                for weight, gradient in zip(weights, gradients, strict=True)
            ])  # fmt: skip
            stack.momentum_SOI.mul_(self.momentum).add_(gradient_SOI)
            direction = gradient_SOI.add_(stack.momentum_SOI, alpha=self.momentum)
            rows = stack.parameters[0].shape[-2]
            whole_SOI = self._gather(direction, rows, of_experts=stack.parameters[0].dim() == 3)
            update_SOI = newton_schulz(whole_SOI, steps=self._steps, dtype=self._dtype).float()
            rms = 0.2 * math.sqrt(max(update_SOI.shape[1:]))
            if whole_SOI is not direction:
                update_SOI = update_SOI[:, self._rows(rows)]
            torch._foreach_mul_(weights, 1 - factor * self.lr * self.weight_decay)  # pyright: ignore[reportPrivateImportUsage]
            updates = update_SOI.split([_matrices(weight) for weight in weights])
            torch._foreach_add_(  # pyright: ignore[reportPrivateImportUsage]
                weights,
                [update.reshape(w.shape) for update, w in zip(updates, weights, strict=True)],
                alpha=-factor * self.lr * rms,
            )

    def _gather(self, direction_SoI: Tensor, rows: int, *, of_experts: bool) -> Tensor:
        """All rows of matrices whose rows lie in several processes; experts lie whole in one."""
        if self._team.alone or of_experts:
            return direction_SoI
        each = -(-rows // self._team.size)
        padded = direction_SoI.new_zeros(direction_SoI.shape[0], each, direction_SoI.shape[2])
        padded[:, : direction_SoI.shape[1]] = direction_SoI
        parts = [torch.empty_like(padded) for _ in range(self._team.size)]
        torch.distributed.all_gather(parts, padded)
        return torch.cat(parts, dim=1)[:, :rows]

    def _rows(self, rows: int) -> slice:
        """Those of a matrix that this process holds."""
        each = -(-rows // self._team.size)
        return slice(min(rows, self._team.rank * each), min(rows, (self._team.rank + 1) * each))

    def state(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for stack in self._stacks:
            parts = stack.momentum_SOI.split([_matrices(local(p.detach())) for p in stack.parameters])
            for name, parameter, part in zip(stack.names, stack.parameters, parts, strict=True):
                tensors[f"muon.momentum.{name}"] = _sharded_like(parameter, part)
        return tensors


class AdamW:
    """PyTorch's fused step with its state known by parameter names. Not `torch.optim.AdamW` around it: to be made, that
    imports the compiler, which takes longer than all else that a run starts with.

    Args:
        decayed, undecayed: parameters with and without weight decay.
    """

    def __init__(
        self, decayed: Mapping[str, Tensor], undecayed: Mapping[str, Tensor], *, lr: float,
        betas: tuple[float, float], weight_decay: float,
    ) -> None:  # fmt: skip
        self.lr, self._betas = lr, betas
        self._groups = ((decayed, weight_decay), (undecayed, 0.0))
        self._state = {
            name: {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            for parameters, _ in self._groups
            for name, parameter in parameters.items()
        }

    @torch.no_grad()
    def step(self, factor: float) -> None:
        for parameters, weight_decay in self._groups:
            moved = {name: p for name, p in parameters.items() if p.grad is not None}
            if not moved:
                continue
            states = {
                key: [local(self._state[name][key]) for name in moved]
                for key in ("exp_avg", "exp_avg_sq", "step")
            }
            torch._foreach_add_(states["step"], 1)  # pyright: ignore[reportPrivateImportUsage]
            torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
                [local(p) for p in moved.values()], [local(p.grad) for p in moved.values() if p.grad is not None],
                states["exp_avg"], states["exp_avg_sq"], [], states["step"], amsgrad=False, lr=factor * self.lr,
                beta1=self._betas[0], beta2=self._betas[1], weight_decay=weight_decay, eps=1e-10, maximize=False,
            )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        return {
            f"adamw.{key}.{name}": tensor
            for name, state in self._state.items()
            for key, tensor in state.items()
        }


class Optimiser:
    """Both, for one model: who is whose is told by the model's `parameter_groups_hint()`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], hints: Mapping[str, str], config: TrainConfig,
                 *, dtype: torch.dtype, team: Team = Team()) -> None:  # fmt: skip
        self._team = team
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        matrices = {name: p for name, p in trained.items() if hints[name] == "matrix"}
        decayed = {name: p for name, p in trained.items() if hints[name] == "head"}
        rest = {name: p for name, p in trained.items() if name not in matrices and name not in decayed}
        self._parameters: Sequence[Tensor] = list(trained.values())
        self._muon = Muon(
            matrices, lr=config.muon_lr, weight_decay=config.weight_decay, momentum=config.momentum,
            steps=config.newton_schulz_steps, dtype=dtype, team=team,
        )  # fmt: skip
        self._adamw = AdamW(
            decayed, rest, lr=config.adamw_lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def gradient_norm(self) -> float:
        """Euclidean norm of the whole gradient."""
        norm = float(torch.stack(torch._foreach_norm(self._gradients())).norm())  # pyright: ignore[reportPrivateImportUsage]
        return norm if self._team.alone else math.sqrt(self._team.sum(norm**2))

    def step(self, factor: float, *, gradient_scale: float) -> None:
        """Scale the gradients, update, and clear them. `factor` is the schedule's."""
        if gradient_scale != 1.0:
            torch._foreach_mul_(self._gradients(), gradient_scale)  # pyright: ignore[reportPrivateImportUsage]
        self._muon.step(factor)
        self._adamw.step(factor)
        self.clear()

    def _gradients(self) -> list[Tensor]:
        return [local(p.grad) for p in self._parameters if p.grad is not None]

    def clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Live tensors by name: what a checkpoint stores and `restore` fills."""
        return {**self._muon.state(), **self._adamw.state()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises CheckpointError: a tensor of the state is missing or of another shape."""
        for name, live in self.state().items():
            stored = tensors.get(name)
            if stored is None or stored.shape != live.shape:
                found = "missing" if stored is None else f"of shape {tuple(stored.shape)}"
                raise CheckpointError(
                    f"optimiser state {name} is {found}, expected {tuple(live.shape)}",
                    remedy="resume with the model and the version that wrote it",
                )
            fill(live, stored)


def _matrices(parameter: Tensor) -> int:
    return parameter.shape[0] if parameter.dim() == 3 else 1


def _sharded_like(parameter: Tensor, part: Tensor) -> Tensor:
    """The rows [n, o, I] of a stack that this process holds, as a part of the whole [n, O, I]."""
    if not hasattr(parameter, "to_local"):
        return part
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((1, *parameter.shape) if parameter.dim() == 2 else parameter.shape)
    place = Shard(1 if parameter.dim() == 2 else 0)
    return DTensor.from_local(
        part, parameter.device_mesh, [place], run_check=False, shape=shape, stride=_strides(shape)  # pyright: ignore
    )  # fmt: skip


def _strides(shape: torch.Size) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def _as_stack(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 3 else tensor[None]
