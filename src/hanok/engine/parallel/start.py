"""Several processes of one command: the first does what the command says, the others compute with it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hanok.engine.parallel.follower import follow
from hanok.engine.parallel.leader import dismiss
from hanok.engine.parallel.shares import check_shares
from hanok.engine.parallel.team import Team, join_team
from hanok.errors import ConfigError, HanokError, TeamError
from hanok.models.checkpoint import load_config
from hanok.reporting import log


def run_together(
    model_dir: Path, work: Callable[[Team | None], None], *, check: Callable[[Path], object] | None = None
) -> None:
    """Do `work` in the first process that `torchrun` started, with the others' help; without `torchrun`, do it alone.

    Args:
        work: must have closed its engine when it returns.
        check: what the others do with the directory, as each sees it, before they read it.

    Raises:
        ConfigError: a model that so many processes cannot share. TeamError: a process has ended before the others.
    """
    with join_team() as team:
        if team is None:
            work(None)
        elif team.leads:
            _lead(model_dir, team, work)
        else:
            _help(model_dir, team, check)


def refuse_together(what: str, *, remedy: str) -> None:
    """For what runs in one process alone: where `torchrun` started several, the first says so and all end.

    Raises:
        ConfigError: in the first process.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        return
    error = ConfigError(f"{what}, and torchrun started {size} processes", remedy=remedy)
    if rank:
        sys.exit(error.exit_code)
    raise error


def _lead(model_dir: Path, team: Team, work: Callable[[Team], None]) -> None:
    try:
        check_shares(load_config(model_dir), team.share.size)
        work(team)
    finally:
        if not team.broken:
            with contextlib.suppress(TeamError):
                dismiss(team)
    if team.broken:
        raise TeamError("another process of the team has ended, so this one did too")


def _help(model_dir: Path, team: Team, check: Callable[[Path], object] | None) -> None:
    """Words and signals are the leader's matter: it may still have answers to finish, and says when it is over."""
    logging.getLogger(log.name).setLevel(logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        follow(model_dir, team, check=check)
    except TeamError:
        log.warning("process %d of the team: another one has ended, so this one does too", team.share.rank)
        sys.exit(TeamError.exit_code)
    except HanokError as error:
        error.message = f"process {team.share.rank} of the team: {error.message}"
        raise
