"""Several processes of one host on one training run: FSDP2 (`torch.distributed.fsdp.fully_shard`), started by `torchrun`.

Every process draws the same steps, computes its part of each, and holds its part of weights, gradients and optimiser state
(ZeRO-3, arXiv 1910.02054). The first one alone writes files. Without `torchrun` the team is one process, and nothing is shared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hanok.errors import ConfigError
from hanok.models.checkpoint import assemble
from hanok.models.decoder import Decoder
from hanok.training.objective import E
from hanok.training.packing import PackedSequence, micro_batches


class Team:
    """Args: rank: this process, from 0. size: of the team."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    def shard(self, decoder: Decoder) -> None:
        """Leave each process its rows of every parameter; they come together layer by layer while they are used."""
        if self.alone:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (self.size,))
        for part in (*decoder.layers, *decoder.mtp):
            fully_shard(part, mesh=mesh)
        fully_shard(decoder, mesh=mesh, reshard_after_forward=False)  # the loss needs the head behind forward

    def settle(self, decoder: Decoder) -> None:
        """After a forward pass without a backward one: let go of rows that others hold, they are about to change."""
        if not self.alone:
            decoder.reshard()  # pyright: ignore[reportCallIssue]

    def share(self, examples: Sequence[E], *, max_tokens: int) -> list[list[E]]:
        """This process's micro-batches of a step: as many as every other's, the last perhaps with nothing to learn."""
        if self.alone:
            return micro_batches(examples, max_tokens=max_tokens)
        parts: list[list[Any]] = [[] for _ in range(self.size)]
        load = [0] * self.size
        for example in examples:
            place = int(np.argmin(load))
            parts[place].append(example)
            load[place] += example.num_tokens
        groups = [micro_batches(part, max_tokens=max_tokens) for part in parts]
        some = examples[0]
        assert isinstance(some, PackedSequence), "only next-token training runs in several processes"
        nothing = PackedSequence(some.ids[:1], some.targets[:1], np.zeros(1, dtype=bool), "nothing")
        mine = groups[self.rank]
        return mine + [[nothing]] * (max(map(len, groups)) - len(mine))

    def sum(self, value: float) -> float:
        """Over all processes."""
        if self.alone:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return float(total)

    def agree(self, value: Any) -> Any:
        """What the first process says."""
        if self.alone:
            return value
        said = [value]
        torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def done_by_first(self, work: Callable[[], Any]) -> None:
        """Let the first process do something that the others need done."""
        if self.first:
            work()
        self.agree(None)

    def balance(self, decoder: Decoder) -> None:
        """Add up what each process counted of its routers' loads."""
        if self.alone:
            return
        for gate in decoder.routers():
            if gate.load_E is not None:
                torch.distributed.all_reduce(gate.load_E)

    def whole_model(self, decoder: Decoder) -> Decoder:
        """The decoder with all its rows, for the first process to write; in the others a decoder of no use."""
        if self.alone:
            return decoder
        tensors = {name: whole(tensor.detach()) for name, tensor in decoder.state_dict().items()}
        model = assemble(decoder.config, tensors, where="the trained model")
        return model.train(decoder.training)


@contextmanager
def join_team() -> Iterator[Team]:
    """The team that `torchrun` told of, or a team of one.

    Raises:
        ConfigError: processes on several hosts.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    if int(os.environ.get("LOCAL_WORLD_SIZE", size)) != size:
        raise ConfigError("processes on several hosts", remedy="start them on one: torchrun --nproc-per-node")
    torch.distributed.init_process_group("gloo")
    try:
        yield Team(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()


def local(tensor: Tensor) -> Tensor:
    """The rows that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore[reportAttributeAccessIssue]


def whole(tensor: Tensor) -> Tensor:
    """All rows; every process must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def fill(live: Tensor, stored: Tensor) -> None:
    """Copy a whole tensor into a live one, or this process's rows of it."""
    if not hasattr(live, "to_local"):
        live.copy_(stored)
        return
    from torch.distributed.tensor import distribute_tensor

    placed = distribute_tensor(stored.contiguous(), live.device_mesh, live.placements, src_data_rank=None)  # pyright: ignore
    local(live).copy_(local(placed))


def fill_all(live: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    for name, tensor in live.items():
        fill(tensor, stored[name])
