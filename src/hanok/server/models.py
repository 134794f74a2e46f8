"""The models behind the API: names to engines and their adapters, at most so many of them in memory."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hanok.engine.adapters import Adapter
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError, SignatureError, did_you_mean
from hanok.server.errors import ApiError
from hanok.server.hosting import Hold, Hosted, ModelSpec, Opened, model_name
from hanok.server.principal import Principal


@dataclass(frozen=True, slots=True)
class Served:
    """What answers under a name: an engine, and the adapter of it if it is one. `hash`: of the weights that answer; `base`: of
    the engine's alone, where an adapter is added.

    One that `Models.take` gave stays loaded until it is given back.
    """

    name: str
    engine: LocalEngine
    hash: str
    adapter: Adapter | None = None
    hold: Hold | None = field(default=None, compare=False)
    base: str = ""

    @property
    def adapter_name(self) -> str | None:
        return None if self.adapter is None else self.adapter.name


class Models:
    """Engines and their adapters, each a model of its own. The first is the default.

    Args:
        most_loaded: models in memory at once. memory: bytes of their weight files at once. None: any.
        keep_alive: seconds after its last request when a model is unloaded; None: never.
    """

    def __init__(self, engine: LocalEngine, *, name: str, model_hash: str) -> None:
        """One that is loaded, and stays."""
        self._take_in([Hosted(ModelSpec(name=name, directory=Path()), engine, model_hash)], None, None, None)

    @classmethod
    def of(
        cls, hosts: Sequence[Hosted], *, most_loaded: int | None = None, memory: int | None = None,
        keep_alive: float | None = None,
    ) -> Models:  # fmt: skip
        """Raises ConfigError: a name twice, or a model that the memory is too small for."""
        names = [name for host in hosts for name in (host.name, *host.adapter_names)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(
                f'two models are called "{twice[0]}"', remedy="give one another name (NAME=DIR)"
            )
        large = [host for host in hosts if memory is not None and host.spec.weight_bytes > memory]
        if large:
            size = large[0].spec.weight_bytes >> 20
            raise ConfigError(
                f"the files of {large[0].name} have {size} MiB, models may take {(memory or 0) >> 20}",
                remedy="give them more memory",
            )
        models = cls.__new__(cls)
        models._take_in(hosts, most_loaded, memory, keep_alive)
        return models

    def _take_in(
        self, hosts: Sequence[Hosted], most: int | None, memory: int | None, keep_alive: float | None
    ) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._first = hosts[0]
        self._aliases: Mapping[str, str] = {}
        self._most, self._memory, self._keep_alive = most, memory, keep_alive
        self._created = int(time.time())
        self._freed = asyncio.Event()
        self._room = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._arriving: set[str] = set()  # names of adapters that are being loaded
        self.refused: Callable[[str, SignatureError], None] = lambda _name, _error: None
        """Told, in a thread, of a model that was not loaded for whoever asked it because of its signature."""
        for host in hosts:
            host.freed = self._left

    @property
    def default(self) -> Served:
        """The model that the page talks to."""
        return self._served(self._first.name, self._first)

    @property
    def default_name(self) -> str:
        return self._first.name

    @property
    def engines(self) -> dict[str, LocalEngine]:
        """Model's name to engine, of those that are loaded or still have answers under way."""
        return {
            name: host.engine
            for name, host in self._hosts.items()
            if host.engine is not None and host.state in ("loaded", "unloading")
        }

    def hash_of(self, name: str) -> str:
        """Of the weights of a model that is loaded."""
        return self._served(name, self._host_of(name)).hash

    def check_aliases(self, aliases: Mapping[str, str]) -> None:
        """Raises ConfigError: a name that is served already, or one of a model that is not here."""
        names = self._names()
        for alias, name in aliases.items():
            if alias in names:
                raise ConfigError(f'alias "{alias}": a model is called so', remedy="choose another name")
            if name not in names:
                raise ConfigError(
                    f'alias "{alias}": no model "{name}" here', remedy=did_you_mean(name, names)
                )

    def take_aliases(self, aliases: Mapping[str, str]) -> None:
        """Other names by which models may be asked for, in place of those there were; what answers says its own."""
        self._aliases = dict(aliases)

    def find(self, name: str, principal: Principal) -> Served:
        """As it is now, held by nobody. Raises ApiError 404 if there is no such model, or none for this principal; 503 if it was
        never loaded."""
        name = self._aliases.get(name, name)
        self._check(name, principal)
        return self._served(name, self._host_of(name))

    async def take(self, name: str, principal: Principal, *, conversation: str | None = None) -> Served:
        """Loaded, and kept loaded until `give_back`. Raises as `find`, or what loading raises; ApiError 503 for SignatureError.

        Args:
            conversation: what it is told by, where a model on trial may answer it; None: only the model itself may.
        """
        name = self._aliases.get(name, name)
        self._check(name, principal)
        host = self._host_of(name)
        await self._loaded_for_asking(host)
        opened = host.answering(principal.tenant, conversation if name == host.name else None)
        hold = host.hold_of(opened)
        try:
            return self._served(name, host, opened, hold)
        except BaseException:
            hold.release()
            raise

    def share(self, served: Served) -> Served:
        """One more hold on what one has: given back on its own."""
        return served if served.hold is None else replace(served, hold=served.hold.again())

    def give_back(self, served: Served) -> None:
        """As often as one likes."""
        if served.hold is not None:
            served.hold.release()

    @asynccontextmanager
    async def use(
        self, name: str, principal: Principal, *, conversation: str | None = None
    ) -> AsyncGenerator[Served, None]:
        """`take` and `give_back`."""
        served = await self.take(name, principal, conversation=conversation)
        try:
            yield served
        finally:
            self.give_back(served)

    @contextmanager
    def use_in_thread(self, name: str, principal: Principal) -> Iterator[Served]:
        """`use`, for threads beside the event loop. Only once `begin` was called."""
        loop = self._loop
        assert loop is not None
        assert threading.get_ident() != self._loop_thread  # it would wait for itself
        served = asyncio.run_coroutine_threadsafe(self.take(name, principal), loop).result()
        try:
            yield served
        finally:
            loop.call_soon_threadsafe(self.give_back, served)

    async def load(self, name: str) -> None:
        """An administrator's; nothing if it is loaded. Raises ApiError 404."""
        await self._loaded(self._own(name))

    async def unload(self, name: str) -> None:
        """An administrator's; requests under way are finished first. Raises ApiError 404."""
        host = self._own(name)
        if host.canary is not None:
            raise ConfigError(f"{name} has a canary on trial", remedy="promote it, or roll it back")
        await host.settled()
        if host.state == "loaded":
            await host.unload()
            self._freed.set()

    def room(self) -> int | None:
        """Bytes that weights may take beside those in memory; None: any."""
        if self._memory is None:
            return None
        return self._memory - sum(
            one.spec.weight_bytes for one in self._hosts.values() if one.state != "unloaded"
        )

    def host(self, name: str) -> Hosted:
        """Of a model, not of an adapter. Raises ApiError 404."""
        return self._own(name)

    async def load_adapter(self, name: str, directory: Path, *, model: str | None = None) -> None:
        """Raises ConfigError (a name that is taken), CheckpointError (no adapter of this model), SignatureError, ApiError 404."""
        host = self._first if model is None else self._own(model)
        if name in self._names() or name in self._arriving or name in self._aliases:
            raise ConfigError(f'"{name}" is served already', remedy="unload it first, or choose another name")
        if host.replacing:
            raise ConfigError(f"{host.name} is being replaced", remedy="wait until that is over")
        self._arriving.add(name)
        host.adapting += 1
        try:
            await self._loaded(host)
            hold = host.hold()
            try:
                assert host.engine is not None
                if host.spec.trusted is not None:
                    await asyncio.to_thread(host.spec.trusted.check, directory)
                await asyncio.to_thread(host.engine.load_adapter, name, directory)
            finally:
                hold.release()
        finally:
            self._arriving.remove(name)
            host.adapting -= 1

    def unload_adapter(self, name: str) -> None:
        """Requests that have it finish with it. Raises ApiError 404."""
        for host in self._hosts.values():
            if host.engine is not None and name in host.engine.adapters and name != host.name:
                host.engine.unload_adapter(name)
                return
        raise ApiError(404, f'no adapter "{name}" is loaded', param="name", code="adapter_not_found")

    def begin(self) -> None:
        """In the server's loop, once it runs: from here on a model may be unused for too long."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        for host in self._hosts.values():
            if host.state == "loaded":
                self._later(host)

    def close(self) -> None:
        """All engines that were opened."""
        for host in self._hosts.values():
            if host.engine is not None:
                host.engine.close()

    def directory_of(self, name: str) -> Path:
        """Of a model, or of the one that an adapter belongs to. Raises ApiError 404."""
        return self._host_of(name).spec.directory

    def names(self, principal: Principal) -> list[str]:
        return [one for one in self._names() if principal.models is None or one in principal.models]

    def describe(self, name: str) -> dict[str, Any]:
        """OpenAI's object, with the context's length and whether there are decoding heads (once it is known) and whether it is
        loaded; of an adapter, `parent` is the model that it belongs to."""
        host = self._host_of(name)
        return {
            "id": name, "object": "model", "created": self._created, "owned_by": "hanok",
            "context_length": None if host.engine is None else host.engine.max_context,
            "decoding_heads": host.engine is not None and host.engine.has_heads,
            "loaded": host.state == "loaded", **({} if name == host.name else {"parent": host.name}),
        }  # fmt: skip

    def _names(self) -> list[str]:
        every = (name for host in self._hosts.values() for name in (host.name, *host.adapter_names))
        return list(dict.fromkeys(every))

    def _check(self, name: str, principal: Principal) -> None:
        if name in self._hosts and (principal.models is None or name in principal.models):
            return
        names = self.names(principal)
        if name not in names:
            served = ", ".join(f'"{one}"' for one in names)
            raise ApiError(
                404, f'no model "{name}" here; this server serves {served or "none that you may use"}',
                param="model", code="model_not_found",
            )  # fmt: skip

    def _own(self, name: str) -> Hosted:
        if name not in self._hosts:
            raise ApiError(404, f'no model "{name}" here', param="model", code="model_not_found")
        return self._hosts[name]

    def _host_of(self, name: str) -> Hosted:
        name = self._aliases.get(name, name)
        if name in self._hosts:
            return self._hosts[name]
        for host in self._hosts.values():
            if name in host.adapter_names:
                return host
        raise ApiError(404, f'no model "{name}" here', param="model", code="model_not_found")

    def _served(
        self, name: str, host: Hosted, opened: Opened | None = None, hold: Hold | None = None
    ) -> Served:
        """Args: opened: which engine of the model's; by default its own. hold: on it."""
        opened = opened or host.opened
        if opened is None:
            raise ApiError(503, f'model "{name}" is not loaded', param="model", code="model_not_loaded")
        if name == host.name:
            return Served(name, opened.engine, opened.hash, hold=hold)
        adapter = opened.engine.adapters.get(name)
        if adapter is None:  # taken away while the model was loading
            raise ApiError(404, f'no model "{name}" here', param="model", code="model_not_found")
        return Served(name, opened.engine, answerer_hash(opened.hash, adapter), adapter, hold, opened.hash)

    async def _loaded(self, host: Hosted) -> None:
        """Once it is; it stays so until the caller awaits something else. Raises what loading raises."""
        while host.state != "loaded":
            if host.changing:
                await host.settled()
            else:
                await self._load(host)

    async def _loaded_for_asking(self, host: Hosted) -> None:
        """`_loaded`, where whoever asks has no part in the files and is not told of them. Raises ApiError 503."""
        try:
            await self._loaded(host)
        except SignatureError as error:
            await asyncio.to_thread(self.refused, host.name, error)
            raise ApiError(
                503, f'model "{host.name}" is not loaded: no trusted key has signed its files as they are',
                param="model", code="model_refused",
            ) from error  # fmt: skip

    async def _load(self, host: Hosted) -> None:
        """Where there is room, which is made by unloading those not in use, the longest unused first."""
        if self._memory is not None and host.spec.weight_bytes > self._memory:  # there will never be room
            raise ApiError(
                503, f'model "{host.name}" is larger than the memory for models', code="model_too_large"
            )
        async with self._room:  # one at a time: who is waiting for room shall get it
            while host.state == "unloaded" and not host.changing and not self._fits(host):
                unused = [one for one in self._hosts.values() if one.state == "loaded" and not one.users]
                if unused:
                    await min(unused, key=lambda one: one.used).unload()
                else:
                    self._freed.clear()
                    await self._freed.wait()
            if host.state == "unloaded" and not host.changing:
                await host.load()
                self._later(host)

    def _fits(self, host: Hosted) -> bool:
        others = [one for one in self._hosts.values() if one is not host and one.state != "unloaded"]
        if self._most is not None and len(others) >= self._most:
            return False
        return self._memory is None or sum(one.spec.weight_bytes for one in (*others, host)) <= self._memory

    def _left(self, host: Hosted) -> None:
        if not host.users:
            self._freed.set()
            self._later(host)

    def _later(self, host: Hosted) -> None:
        """Look again when it may have been unused for long enough."""
        if self._keep_alive is not None:
            asyncio.get_running_loop().call_later(self._keep_alive, self._sweep, host, host.used)

    def _sweep(self, host: Hosted, used: float) -> None:
        if host.state == "loaded" and not host.changing and not host.users and host.used == used:
            task = asyncio.get_running_loop().create_task(host.unload())
            task.add_done_callback(lambda done: done.cancelled() or done.exception() or self._freed.set())


def answerer_hash(model_hash: str, adapter: Adapter | None) -> str:
    """Whose answer it is: the model's own hash, or one of the model and the adapter's content."""
    return (
        model_hash if adapter is None else hashlib.sha256(f"{model_hash} {adapter.hash}".encode()).hexdigest()
    )


def check_names(model_dir: Path, adapters: Mapping[str, Path]) -> None:
    """Raises ConfigError if an adapter is called like the model."""
    if model_name(model_dir) in adapters:
        raise ConfigError(
            f'the model is called "{model_name(model_dir)}" too', remedy="give the adapter another name"
        )
