"""The processes that `torchrun` started, and how they reach each other: gloo, on the CPU.

Whoever ends early takes the others along: a connection that breaks is a `TeamError` in all who wait on it, and a team that
is broken stays so, since nobody knows what the others have seen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hanok.engine.parallel.shares import Share
from hanok.errors import ConfigError, TeamError

_FIRST = 512  # numbers that every message takes at least
_FOR_EVER = timedelta(days=1000)  # between two requests nothing is said


class Team:
    """Args: share: which process this is, of how many.

    `on_break`: called once, in whatever thread notices, when the team breaks.
    """

    def __init__(self, share: Share) -> None:
        self.share = share
        self.broken = False
        self.on_break: Callable[[], None] | None = None
        quiet = dist.new_group(timeout=_FOR_EVER, backend="gloo")
        assert isinstance(quiet, dist.ProcessGroup)
        self._quiet = quiet

    @property
    def leads(self) -> bool:
        return self.share.rank == 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What all do at once. After any error in it the team is broken.

        Raises:
            TeamError: it was broken before, or a connection to another process is.
        """
        if self.broken:
            raise _gone()
        try:
            yield
        except BaseException as error:
            self.broken = True
            if self.on_break is not None:
                self.on_break()
            if isinstance(error, dist.DistError) or _lost_connection(error):
                raise _gone() from error
            raise

    def tell(self, numbers: Sequence[int]) -> None:
        """From the leader to all; they are in `hear`."""
        message = torch.zeros(_FIRST, dtype=torch.int64)
        message[0] = len(numbers)
        rest = torch.tensor(numbers, dtype=torch.int64)
        start, rest = rest[: _FIRST - 1], rest[_FIRST - 1 :]
        message[1 : 1 + len(start)] = start
        dist.broadcast(message, src=0, group=self._quiet)
        if len(rest):
            dist.broadcast(rest, src=0, group=self._quiet)

    def hear(self) -> list[int]:
        message = torch.empty(_FIRST, dtype=torch.int64)
        dist.broadcast(message, src=0, group=self._quiet)
        length = int(message[0])
        rest = torch.empty(max(0, length - _FIRST + 1), dtype=torch.int64)
        if len(rest):
            dist.broadcast(rest, src=0, group=self._quiet)
        return torch.cat([message[1 : 1 + length], rest]).tolist()

    def meet(self) -> None:
        """Wait until all are here."""
        dist.barrier(group=self._quiet)

    def share_out(self, whole: Tensor) -> Tensor:
        """The leader's tensor, in all."""
        dist.broadcast(whole, src=0)
        return whole

    def sum(self, part: Tensor) -> Tensor:
        """Over all, the same bits in each: summed in the order of the processes, whatever else is in the tensor."""
        parts = [
            torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.share.size)
        ]
        dist.all_gather(parts, part.contiguous())
        total = parts[0]
        for other in parts[1:]:
            total += other
        return total

    def join_columns(self, part_Nv: Tensor, width: int) -> Tensor:
        """[N, width] in the leader, of the columns that each holds; in the others their own."""
        longest = -(-width // self.share.size)
        padded = torch.nn.functional.pad(part_Nv, (0, longest - part_Nv.shape[1])).contiguous()
        if not self.leads:
            dist.gather(padded, dst=0)
            return part_Nv
        parts = [torch.empty_like(padded) for _ in range(self.share.size)]
        dist.gather(padded, parts, dst=0)
        lengths = [Share(rank, self.share.size).length(width) for rank in range(self.share.size)]
        return torch.cat([part[:, :length] for part, length in zip(parts, lengths, strict=True)], dim=1)


@contextlib.contextmanager
def join_team() -> Iterator[Team | None]:
    """The team that `torchrun` told of; None where this process is alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield None
        return
    dist.init_process_group("gloo")
    team = Team(Share(dist.get_rank(), size))
    try:
        yield team
    finally:
        if not team.broken:
            dist.destroy_process_group()


def refuse_in_team(team: Team | None, what: str) -> None:
    """Raises ConfigError where there is a team."""
    if team is not None:
        raise ConfigError(f"{what} in one process alone", remedy="start without torchrun for that")


def _lost_connection(error: BaseException) -> bool:
    """Gloo says so in words alone."""
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("gloo", "Connection closed by peer", "Connection reset by peer")
    )


def _gone() -> TeamError:
    return TeamError("another process of the team has ended, and none can go on alone")
