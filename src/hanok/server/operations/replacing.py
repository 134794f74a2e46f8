"""Another model under the same name while the old one answers: tried out first, taken back by itself if it fails.

1. It is loaded beside the old one (both are in memory for a while) and must give finite numbers for some prompts. If it does
   not, it is thrown away, and nothing has happened.
2. New requests go to it. Those under way finish with the old one.
3. For `PROBATION_SECONDS` its answers are watched: if most of them fail, and at least `FAILURES`, new requests go to the old one
   again. After that the old one is closed, once nobody holds it, and its memory given back. A model that is unloaded meanwhile
   has passed.

The new engine has a cache of its own, so nothing that the old weights computed is found again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.parallel.team import refuse_in_team
from hanok.errors import ConfigError, HanokError
from hanok.reporting import log
from hanok.server.exchange import Exchange, Outcome
from hanok.server.hosting import Hosted, ModelSpec, Opened, open_model

PROBATION_SECONDS = 25.0
FAILURES = 3
_TRIES, _TOKENS, _LENGTHS = 3, 8, (1, 16, 64)
_LOOK = 0.1


@dataclass(slots=True)
class _Probation:
    """Args: hash: of the new weights. ended, failed: their answers."""

    hash: str
    ended: int = 0
    failed: int = 0

    @property
    def over(self) -> bool:
        return self.failed >= FAILURES and 2 * self.failed > self.ended


class Replacing:
    """An `Observer` of exchanges. Args: told: of each model that was taken back: its name, the hash of its weights, and why."""

    def __init__(
        self, told: Callable[[str, str, str], None], *, probation: float = PROBATION_SECONDS
    ) -> None:
        self._told, self._seconds = told, probation
        self._open: dict[str, _Probation] = {}
        self._leaving: list[Opened] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def engines(self) -> list[LocalEngine]:
        """Those that were replaced and may have answers under way."""
        return [opened.engine for opened in self._leaving]

    def begun(self, exchange: Exchange) -> None:
        pass

    def ended(self, exchange: Exchange, outcome: Outcome) -> None:
        for probation in self._open.values():
            if probation.hash == exchange.model_hash:
                probation.ended += 1
                probation.failed += outcome.reason == "error"

    async def replace(self, host: Hosted, directory: Path) -> None:
        """Once the new one answers.

        Raises:
            ConfigError: it is not loaded, is being replaced already, or the new one gives no numbers; the old one goes on.
            ArtefactError, CheckpointError: the directory is no model.
        """
        check_replaceable(host)
        host.replacing, hold = True, host.hold()  # held: whoever unloads it waits
        try:
            new = await asyncio.to_thread(open_and_try, spec_in(host, directory))
            self.put_in(host, new)
        except BaseException:
            host.replacing = False
            raise
        finally:
            hold.release()

    def put_in(self, host: Hosted, new: Opened) -> None:
        """A model that was tried out takes the place of one that is held; it is on probation from here on."""
        old, host.replacing = host.opened, True
        assert old is not None
        _forget_adapters(new, like=old)  # unloaded meanwhile
        host.swap(new)
        log.info("model %s is now %s", host.name, new.spec.directory)
        self._leaving.append(old)
        probation = self._open[host.name] = _Probation(new.hash)
        task = asyncio.get_running_loop().create_task(self._watch(host, probation, old, new))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End the probations: what is in use now stays."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, host: Hosted, probation: _Probation, old: Opened, new: Opened) -> None:
        unused = old
        try:
            clock = asyncio.get_running_loop().time
            end = clock() + self._seconds
            while clock() < end and not probation.over and host.state != "unloaded":
                await asyncio.sleep(_LOOK)
            if probation.over:
                _forget_adapters(old, like=new)
                unused = await host.put_back(old)
                self._leaving[self._leaving.index(old)] = new
                why = f"{probation.failed} of {probation.ended} answers failed"
                log.error("model %s is taken back: %s", host.name, why)
                self._told(host.name, new.hash, why)
            while unused.users or unused.engine.in_use:
                await asyncio.sleep(_LOOK)
        finally:
            del self._open[host.name]
            await asyncio.to_thread(unused.engine.close)
            self._leaving.remove(unused)
            host.replacing = False


def spec_in(host: Hosted, directory: Path) -> ModelSpec:
    """Of another model in its place, with the adapters that it has."""
    there = () if host.engine is None else host.engine.adapters
    adapters = {name: path for name, path in host.spec.adapters.items() if name in there}
    return replace(host.spec, directory=directory, adapters=adapters)


def check_replaceable(host: Hosted) -> None:
    """Raises ConfigError: it cannot be replaced, or have another beside it, now."""
    refuse_in_team(
        host.spec.options.get("team"), f"{host.name} has another model in its place, or beside it,"
    )
    if host.canary is not None:
        raise ConfigError(f"{host.name} has a canary on trial", remedy="promote it, or roll it back")
    if host.engine is None or host.state != "loaded" or host.changing:
        raise ConfigError(f"{host.name} is {host.state}", remedy="load it first")
    if host.replacing:
        raise ConfigError(f"{host.name} is being replaced", remedy="wait until that is over")
    if host.adapting:
        raise ConfigError(f"{host.name} is taking in an adapter", remedy="wait until that is over")
    later = set(host.engine.adapters) - set(host.spec.adapters)
    if later:
        raise ConfigError(
            f"{host.name} has an adapter, {min(later)}, that its settings do not name",
            remedy="unload it first",
        )


def _forget_adapters(opened: Opened, *, like: Opened) -> None:
    for name in set(opened.engine.adapters) - set(like.engine.adapters):
        opened.engine.unload_adapter(name)


def open_and_try(spec: ModelSpec) -> Opened:
    opened = open_model(spec)
    try:
        try_out(opened.engine)
    except BaseException:
        opened.engine.close()
        raise
    return opened


def try_out(engine: LocalEngine) -> None:
    """Raises ConfigError unless it gives finite numbers for prompts of several lengths."""
    vocabulary = engine.tokenizer.vocab_size
    params = SamplingParams(
        max_tokens=_TOKENS, temperature=0.0, ignore_eos=True, logprobs=0, decoding="fixed"
    )
    requests = [
        Request(
            id=f"try-{length}-{number}", params=params, tenant="\0try",
            prompt_ids=[(17 + 31 * number + 7 * place) % vocabulary for place in range(length)],
        )
        for length in _LENGTHS for number in range(_TRIES)
    ]  # fmt: skip
    try:
        answers: list[Any] = engine.generate(requests)
    except HanokError as error:
        raise ConfigError(f"the new model fails ({error.message})", remedy="the old one goes on") from error
    if not all(math.isfinite(one) for answer in answers for one in answer.logprobs or (math.nan,)):
        raise ConfigError("the new model's numbers are not finite", remedy="the old one goes on")
