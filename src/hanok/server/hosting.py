"""One model directory behind the API: loaded when somebody asks for it, unloaded when nobody does.

All methods belong to the server's event loop; engines are opened, woken and put to sleep in threads of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from hanok.artefacts import open_artefact
from hanok.artefacts.signing import Trusted
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError, did_you_mean
from hanok.reporting import log
from hanok.store.database import run_folder

_KEYS = ("name", "path", "weights", "cache_mib", "adapters")
State = Literal["unloaded", "loading", "loaded", "unloading"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """What may be loaded. `options`: for `LocalEngine`. `adapters`: name to directory. `trusted`: whose signatures model, draft
    and adapters must have; None: none."""

    name: str
    directory: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)
    trusted: Trusted | None = None

    def check(self) -> str | None:
        """The id of the key that has signed the model. Raises SignatureError: one of the directories is not what was signed."""
        if self.trusted is None:
            return None
        beside = filter(None, (self.options.get("draft_dir"), *self.adapters.values()))
        return self.trusted.check_all([*beside, self.directory])[-1].key_id

    def open(self) -> LocalEngine:
        """What must be signed is packed from its files each time: nobody has signed images that were kept."""
        return LocalEngine(
            self.directory, adapters=self.adapters, keep_images=self.trusted is None, **self.options
        )

    @property
    def weight_bytes(self) -> int:
        """Of its files: what a memory budget counts."""
        return sum(file.stat().st_size for file in self.directory.glob("*.safetensors"))


def parse_model(option: str, options: Mapping[str, Any]) -> ModelSpec:
    """NAME=DIR, or DIR alone. Raises ConfigError: no name or no directory."""
    name, equals, directory = option.partition("=")
    if not equals:
        name, directory = model_name(Path(option).expanduser()), option
    if not (name and directory):
        raise ConfigError(f'model "{option}"', remedy="write NAME=DIR, or DIR")
    return ModelSpec(name=name, directory=Path(directory).expanduser(), options=options)


def parse_aliases(options: Sequence[str]) -> dict[str, str]:
    """NAME=MODEL each. Raises ConfigError: something else, or a name twice."""
    aliases: dict[str, str] = {}
    for option in options:
        alias, _, name = option.partition("=")
        if not (alias and name) or alias in aliases:
            raise ConfigError(f'alias "{option}"', remedy="write NAME=MODEL, each name once")
        aliases[alias] = name
    return aliases


def read_models(file: Path, options: Mapping[str, Any]) -> list[ModelSpec]:
    """`[[model]]` tables with path and, if wanted, name, weights, cache_mib and adapters. Paths are relative to the file.

    Raises:
        ConfigError: a file that is none, or keys and values that do not fit.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8")).get("model", [])
        return [_spec(table, file, options) for table in tables]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})", remedy="check --models") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML ({error})", remedy="mend it") from error


def _spec(table: Mapping[str, Any], file: Path, options: Mapping[str, Any]) -> ModelSpec:
    for key in table:
        if key not in _KEYS:
            raise ConfigError(f'{file}: unknown key "{key}" of a model', remedy=did_you_mean(key, _KEYS))
    if not isinstance(table.get("path"), str) or not isinstance(table.get("name", ""), str):
        raise ConfigError(
            f"{file}: a model without a path", remedy='write path = "DIR" and, if wanted, name = "NAME"'
        )
    base, own = file.parent, dict(options)
    if "weights" in table:
        own["weights"] = table["weights"]
    if "cache_mib" in table:
        own["cache_bytes"] = table["cache_mib"] << 20
    directory = base / Path(table["path"]).expanduser()
    adapters = {name: base / Path(path).expanduser() for name, path in table.get("adapters", {}).items()}
    return ModelSpec(
        name=table.get("name") or model_name(directory), directory=directory, options=own, adapters=adapters
    )


def model_name(model_dir: Path) -> str:
    """The run and what lies between it and the model: `runs/village/improve-001/model` is village-improve-001."""
    path = model_dir.absolute()
    run = run_folder(path)
    if run is not None:
        parts = (run.name, *path.relative_to(run).parts)
    else:
        parts = path.parts[-2:] if path.name == "model" else (path.name,)
    return "-".join(part for part in parts if part != "model")


@dataclass(slots=True, eq=False)
class Opened:
    """An engine that was opened for a model, and how many use it. `hash`: of its weights. `signed_by`: the id of that key.
    `idle`: set whenever nobody does."""

    engine: LocalEngine
    hash: str
    spec: ModelSpec
    signed_by: str | None = None
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def hold(self) -> None:
        self.users += 1

    def leave(self) -> None:
        self.users -= 1
        if not self.users:
            self.idle.set()


class OnTrial(Protocol):
    """An engine that is tried out beside a model's own (`hanok.server.canary`)."""

    @property
    def opened(self) -> Opened: ...
    def takes(self, tenant: str, conversation: str) -> bool: ...


class Hosted:
    """Args: engine, hash, signed_by: where it is loaded already. Once opened, an unloaded engine sleeps: it keeps tokeniser and
    adapters.

    Another engine may take its place (`hanok.server.operations.replacing`); whoever holds the old one keeps that.

    Attributes:
        freed: told whenever somebody's hold ends. replacing: another model is taking its place, or is on probation.
        adapting: adapters that are being loaded. canary: another engine that some conversations go to.
    """

    def __init__(
        self,
        spec: ModelSpec,
        engine: LocalEngine | None = None,
        model_hash: str | None = None,
        signed_by: str | None = None,
    ) -> None:
        self.spec = spec
        self.opened = None if engine is None else Opened(engine, model_hash or "", spec, signed_by)
        self.state: State = "unloaded" if engine is None else "loaded"
        self.used = time.monotonic()
        self.freed: Callable[[Hosted], None] = lambda _: None
        self.replacing, self.adapting = False, 0
        self.canary: OnTrial | None = None
        self._change: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def engine(self) -> LocalEngine | None:
        """The one that new requests go to; asleep where the model is unloaded."""
        return None if self.opened is None else self.opened.engine

    @property
    def hash(self) -> str | None:
        return None if self.opened is None else self.opened.hash

    @property
    def users(self) -> int:
        """Of that engine."""
        return 0 if self.opened is None else self.opened.users

    @property
    def adapter_names(self) -> list[str]:
        return list(self.spec.adapters if self.engine is None else self.engine.adapters)

    @property
    def changing(self) -> bool:
        return self._change is not None

    def hold(self) -> Hold:
        return self.hold_of(self.opened)

    def hold_of(self, opened: Opened | None) -> Hold:
        """Args: opened: this model's, or its canary's."""
        assert self.state == "loaded"
        assert opened is not None
        opened.hold()
        return Hold(self, opened)

    def answering(self, tenant: str, conversation: str | None) -> Opened | None:
        """Whose a conversation is; None: of what is no conversation."""
        trial = self.canary
        if trial is not None and conversation is not None and trial.takes(tenant, conversation):
            return trial.opened
        return self.opened

    async def settled(self) -> None:
        """After the change under way. Raises what it raised."""
        if self._change is not None:
            await asyncio.shield(self._change)

    async def load(self) -> None:
        """Raises what opening a model raises."""
        self._begin("loading", self._load())
        await self.settled()

    async def unload(self) -> None:
        """Once those who use it are done; whoever asks for it meanwhile waits, and has it loaded again."""
        self._begin("unloading", self._unload())
        await self.settled()

    def swap(self, other: Opened) -> Opened:
        """New requests go to the other engine, which is awake. Only while somebody holds the one that is returned, or the model
        is loaded and not changing: nobody puts it to sleep or wakes it then."""
        before = self.opened
        assert before is not None
        assert before.users or (self.state == "loaded" and not self.changing)
        self.opened, self.spec = other, other.spec
        before.idle.set()  # who waits for it to be unused looks at the other one
        return before

    async def put_back(self, other: Opened) -> Opened:
        """`swap` at any time: where the model is unloaded, the other engine, which is awake, is put to sleep in its turn."""
        while self.changing:
            with contextlib.suppress(Exception):  # whoever began the change is told
                await self.settled()
        if self.state == "loaded":
            return self.swap(other)
        before = self.opened
        assert before is not None
        self._begin("unloading", self._put_asleep(other))
        await self.settled()
        return before

    def _begin(self, state: State, work: Any) -> None:
        assert self._change is None
        self.state = state
        self._change = asyncio.get_running_loop().create_task(work)
        self._change.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # nobody may be waiting

    async def _load(self) -> None:
        try:
            began = time.monotonic()
            if self.opened is None:
                self.opened = await asyncio.to_thread(open_model, self.spec)
            else:
                await asyncio.to_thread(_wake, self.opened)
            self.state, self.used = "loaded", time.monotonic()
            log.info("model %s loaded in %.1f s", self.name, self.used - began)
        finally:
            self.state = "loaded" if self.state == "loaded" else "unloaded"
            self._change = None

    async def _unload(self) -> None:
        try:
            while self.opened is not None and self.opened.users:
                self.opened.idle.clear()
                await self.opened.idle.wait()
            assert self.opened is not None
            await asyncio.to_thread(self.opened.engine.sleep)
            self.state = "unloaded"
            log.info("model %s unloaded", self.name)
        finally:
            self.state = "unloaded" if self.state == "unloaded" else "loaded"
            self._change = None

    async def _put_asleep(self, other: Opened) -> None:
        try:
            await asyncio.to_thread(other.engine.sleep)
            self.opened, self.spec = other, other.spec
        finally:
            self.state, self._change = "unloaded", None


class Hold:
    """Somebody's use of a loaded model, whose engine is neither put to sleep nor closed before `release`."""

    def __init__(self, host: Hosted, opened: Opened) -> None:
        self._host, self._opened = host, opened
        self._held = True

    def again(self) -> Hold:
        """One more, even if the model is to be unloaded once nobody uses it."""
        assert self._held
        self._opened.hold()
        return Hold(self._host, self._opened)

    def release(self) -> None:
        """Once; what comes after it does nothing."""
        if not self._held:
            return
        self._held = False
        self._opened.leave()
        self._host.used = time.monotonic()
        self._host.freed(self._host)


def open_model(spec: ModelSpec) -> Opened:
    """Raises what opening a model raises."""
    signed_by, model_hash = spec.check(), open_artefact(spec.directory).hash
    return Opened(spec.open(), model_hash, spec, signed_by)


def _wake(opened: Opened) -> None:
    """Its weights are read from the files once more."""
    opened.spec.check()
    opened.engine.wake()
