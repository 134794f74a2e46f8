"""One server's trials: a second engine beside a model's, conversations dealt out between the two, and how a trial ends.

A conversation is told by its tenant, who asks, and its first question, which chat clients send again with every turn; a hash of
that under the trial's id decides, so that a conversation stays with one model, also when the share grows, and without anything
being remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanok.artefacts import open_artefact, readmit, withdraw
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError, HanokError
from hanok.guard.verdicts import VerdictEvent
from hanok.reporting import log, put_notice
from hanok.server.canary.arms import Arms
from hanok.server.exchange import Exchange, Outcome
from hanok.server.hosting import Hold, Hosted, Opened, open_model
from hanok.server.operations.replacing import FAILURES, Replacing, check_replaceable, open_and_try, spec_in
from hanok.store.canaries import Canaries, Canary

SAVED_SECONDS = 5.0  # how often counts are written down
_LOOK = 0.1
Told = Callable[[str, Mapping[str, Any]], None]


@dataclass(eq=False)
class Trial:
    """A running one. `Hosted.canary`: what `Models.take` asks. hold: keeps the current engine loaded meanwhile."""

    row: Canary
    opened: Opened
    arms: Arms
    hold: Hold
    ending: bool = False

    def takes(self, tenant: str, conversation: str) -> bool:
        """Whether a conversation is the canary's."""
        digest = hashlib.blake2b(
            f"{self.row.id}\0{tenant}\0{conversation}".encode("utf-8", "replace"), digest_size=8
        )
        return int.from_bytes(digest.digest()) < self.row.share * 2**64


class Trials:
    """An `Observer` of exchanges and a listener to verdicts. Its methods belong to the server's event loop.

    Args:
        replacing: puts a promoted engine in the place of the old one, on probation. told: of what it does by itself.
    """

    def __init__(self, replacing: Replacing, told: Told) -> None:
        self._replacing, self._told = replacing, told
        self.table: Canaries | None = None
        self._running: dict[str, tuple[Hosted, Trial]] = {}
        self._leaving: list[Opened] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._saved = time.monotonic()

    @property
    def engines(self) -> list[LocalEngine]:
        """Those that may have answers under way beside the models' own."""
        return [
            one.engine for one in (*(trial.opened for _, trial in self._running.values()), *self._leaving)
        ]

    # ---- an observer, a listener ------------------------------------------------------------------------------------

    def begun(self, exchange: Exchange) -> None:
        if exchange.model in self._running:
            self._running[exchange.model][1].arms.begun(exchange)

    def ended(self, exchange: Exchange, outcome: Outcome) -> None:
        if exchange.model not in self._running:
            return
        host, trial = self._running[exchange.model]
        trial.arms.ended(exchange, outcome)
        if (
            trial.row.auto_rollback
            and not trial.ending
            and (why := trial.arms.fails(least=FAILURES)) is not None
        ):
            log.error("the canary of %s is rolled back: %s", host.name, why)
            trial.ending = True
            self._soon(self._roll_back_by_itself(host.name, why))
        elif time.monotonic() - self._saved > SAVED_SECONDS:
            self._saved = time.monotonic()
            self._soon(self._save())

    def verdict(self, event: VerdictEvent) -> None:
        if event.model in self._running:
            self._running[event.model][1].arms.verdict(event)

    # ---- beginning and ending ---------------------------------------------------------------------------------------

    async def start(
        self, host: Hosted, directory: Path, *, share: float, auto_rollback: bool, room: int | None
    ) -> Canary:
        """Args: room: bytes that its weights may take; None: any.

        Raises:
            ConfigError: the model cannot be on trial now, or gives no numbers. ArtefactError, CheckpointError: it is none.
            SignatureError: it is not what a trusted key has signed.
        """
        check_replaceable(host)
        assert host.opened is not None
        spec = spec_in(host, directory)
        if room is not None and spec.weight_bytes > room:
            raise ConfigError(
                f"{directory} has {spec.weight_bytes >> 20} MiB and models may take {room >> 20} more",
                remedy="give them more memory, or unload another",
            )
        host.replacing, hold = True, host.hold()
        try:
            opened = await asyncio.to_thread(open_and_try, spec)
            row = Canary(
                model=host.name, current_directory=_name(host.spec.directory), current_hash=host.opened.hash,
                canary_directory=_name(directory), canary_hash=opened.hash, share=share, auto_rollback=auto_rollback,
            )  # fmt: skip
            try:
                if opened.hash == host.opened.hash:
                    raise ConfigError(
                        f"{directory} is the model that is served", remedy="name the new one's directory"
                    )
                row = await asyncio.to_thread(self._rows.add, row)
            except BaseException:
                await asyncio.to_thread(opened.engine.close)
                raise
        except BaseException:
            host.replacing = False
            hold.release()
            raise
        self._begin(host, row, opened, hold)
        return row

    def signed_by(self, name: str) -> str | None:
        """The id of the key that has signed a running one. Raises ConfigError: there is none."""
        return self._find(name)[1].opened.signed_by

    def resume(self, host: Hosted, row: Canary) -> None:
        """A trial that ran when the server ended: before it serves, in a thread. What cannot be opened any more is over."""
        try:
            opened = open_model(spec_in(host, Path(row.canary_directory)))
        except (HanokError, OSError) as error:
            log.error("the canary of %s cannot go on: %s", host.name, error)
            self._rows.change(
                row.id, state="rolled_back", ended=time.time(), ended_by="server", why=str(error)
            )
            return
        host.replacing = True
        self._begin(host, row, opened, host.hold())

    async def change(self, name: str, **values: Any) -> Canary:
        """Args: values: share, auto_rollback."""
        _, trial = self._find(name)
        await asyncio.to_thread(self._rows.change, trial.row.id, **values)
        trial.row = replace(trial.row, **values)
        return trial.row

    async def promote(self, name: str, *, by: str, why: str) -> None:
        """Everybody gets the canary's model, which is on probation from here on; requests under way finish where they are.

        Raises:
            SignatureError: its files, which the server begins with the next time, are not what was signed any more.
        """
        host, trial = self._find(name)
        trial.ending = True
        try:
            await asyncio.to_thread(trial.opened.spec.check)
        except BaseException:
            trial.ending = False
            raise
        await self._end(host, trial, state="promoted", by=by, why=why)
        host.replacing = False
        self._replacing.put_in(host, trial.opened)
        trial.hold.release()

    async def roll_back(self, name: str, *, by: str, why: str) -> None:
        """Everybody gets the current model. The canary's does not come back by itself."""
        host, trial = self._find(name)
        trial.ending = True
        await self._end(host, trial, state="rolled_back", by=by, why=why)
        host.replacing = False
        trial.hold.release()
        self._leaving.append(trial.opened)
        self._soon(self._close_once_unused(trial.opened))

    def taken_back(self, name: str, weights: str, why: str) -> None:
        """A model that replaced another failed on its probation: one that was promoted is not served again.

        Args:
            weights: the hash of the failed one's.
        """
        if self.table is not None:
            self._soon(asyncio.to_thread(self._note_taken_back, name, weights, why))

    async def close(self) -> None:
        """What was counted is kept; trials go on when the server is started again."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._save()
        for host, trial in self._running.values():
            host.canary = None
            await asyncio.to_thread(trial.opened.engine.close)
        self._running.clear()

    def counts(self, row: Canary) -> Mapping[str, Any]:
        """Counts of a trial, up to now."""
        running = self._running.get(row.model)
        return running[1].arms.plain() if running is not None and running[1].row.id == row.id else row.counts

    # ---- inside -----------------------------------------------------------------------------------------------------

    @property
    def _rows(self) -> Canaries:
        assert self.table is not None
        return self.table

    def _begin(self, host: Hosted, row: Canary, opened: Opened, hold: Hold) -> None:
        arms = Arms({"current": row.current_hash, "canary": row.canary_hash}, row.counts)
        trial = Trial(row, opened, arms, hold)
        self._running[host.name] = (host, trial)
        host.canary = trial
        log.info("model %s: %s answers a share of %g", host.name, row.canary_directory, row.share)

    def _find(self, name: str) -> tuple[Hosted, Trial]:
        found = self._running.get(name)
        if found is None or found[1].ending:
            raise ConfigError(f"no canary of {name} is running", remedy="start one")
        return found

    async def _end(self, host: Hosted, trial: Trial, *, state: str, by: str, why: str) -> None:
        """From here on nobody new gets to it."""
        row = replace(trial.row, counts=trial.arms.plain())
        try:
            await asyncio.to_thread(self._note, row, state, by, why)
        except BaseException:
            trial.ending = False
            raise
        host.canary = None
        del self._running[host.name]

    def _note(self, row: Canary, state: str, by: str, why: str) -> None:
        self._rows.change(
            row.id, state=state, ended=time.time(), ended_by=by, why=why, counts=dict(row.counts)
        )
        directory = Path(row.canary_directory)
        if state == "rolled_back":
            note = withdraw(directory, why, by=by)
            put_notice(directory.parent, f"This model was {note}")
        else:
            readmit(directory)
            put_notice(directory.parent, None)

    def _note_taken_back(self, name: str, weights: str, why: str) -> None:
        row = self._rows.find(name)
        if row is not None and row.state == "promoted" and row.canary_hash == weights:
            self._note(row, "rolled_back", "server", why)

    async def _roll_back_by_itself(self, name: str, why: str) -> None:
        if name not in self._running:  # an administrator was quicker
            return
        self._running[name][1].ending = False
        await self.roll_back(name, by="server", why=why)
        self._told("canary.rolled_back", {"model": name, "why": why})

    async def _save(self) -> None:
        for _, trial in list(self._running.values()):
            if trial.arms.changed:
                trial.arms.changed = False
                await asyncio.to_thread(self._rows.change, trial.row.id, counts=trial.arms.plain())

    async def _close_once_unused(self, opened: Opened) -> None:
        while opened.users or opened.engine.in_use:
            await asyncio.sleep(_LOOK)
        await asyncio.to_thread(opened.engine.close)
        self._leaving.remove(opened)

    def _soon(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def standing(table: Canaries, directory: Path) -> Canary | None:
    """What became of a model directory by a trial: it runs, or one was promoted; None where there was none, or the files have
    changed since."""
    row, seen, place = None, set(), directory
    while (found := table.of_directory(place)) is not None and found.id not in seen:
        row, place = (
            found,
            Path(found.canary_directory),
        )  # what was promoted may have been followed by another
        seen.add(found.id)
        if found.state == "running":
            break
    if row is None:
        return None
    for name, model_hash in (
        (row.current_directory, row.current_hash),
        (row.canary_directory, row.canary_hash),
    ):
        needed = row.state == "running" or name == row.canary_directory
        if needed and not _is_still(Path(name), model_hash):
            log.warning("%s is not what was on trial (%s): served as it was named", name, row.id)
            return None
    return row


def standing_directory(row: Canary) -> Path:
    """Of the model that is served beside the one on trial, or after it."""
    return Path(row.current_directory if row.state == "running" else row.canary_directory)


def _is_still(directory: Path, model_hash: str) -> bool:
    try:
        return open_artefact(directory, verify=False).hash == model_hash
    except (HanokError, OSError):
        return False


def _name(directory: Path) -> str:
    return str(directory.resolve())
