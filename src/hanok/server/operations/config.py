"""How `hanok serve` is set up: defaults, then a TOML file, then the environment (HANOK_SERVE_...), then flags.

Names are the same everywhere: the flag `--max-body-mib`, the key `max_body_mib` and the variable `HANOK_SERVE_MAX_BODY_MIB`.
Lists have commas in the environment.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from hanok.errors import ConfigError, did_you_mean
from hanok.server.operations.logs import Format, Level

PREFIX = "HANOK_SERVE_"
_LIVE = {"live": True}  # may change while the server runs


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What the flags of `hanok serve` say; `hanok/cli/serve.py` has the words for each."""

    model: Path = Path("runs/quickstart")
    host: str = "127.0.0.1"
    port: int = 8080
    weights: Literal["auto", "float32", "bf16", "int8", "int4+", "int4"] = "auto"
    device: str = "auto"
    cache_mib: int | None = None
    cache_type: Literal["bf16", "int8"] = "bf16"
    speculation: Literal["auto", "off", "lookup", "own"] = "auto"
    draft: Path | None = None
    adapter: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    alias: tuple[str, ...] = field(default=(), metadata=_LIVE)
    models: Path | None = None
    require_signature: tuple[Path, ...] = ()
    most_loaded: int | None = None
    models_mib: int | None = None
    unload_seconds: float | None = None
    replicas: int = 1
    runtime: Literal["process", "ray"] = "process"
    store: str | None = None
    allowed_host: tuple[str, ...] = ()
    trusted_proxy: tuple[str, ...] = ()
    trust_loopback: bool = False
    setup: bool = False
    oidc_issuer: str = ""
    oidc_client: str = ""
    oidc_name: str = ""
    oidc_role: str = "user"
    url: str = ""
    guard: str = field(default="default", metadata=_LIVE)
    prices: Path | None = field(default=None, metadata=_LIVE)  # and the file is read again
    request_timeout: float | None = None
    max_queue: int = 512
    max_queue_tokens: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_format: Format = "text"
    log_level: Level = field(default="info", metadata=_LIVE)
    traces: str = ""
    trace_share: float = 1.0
    grace: float = field(default=20.0, metadata=_LIVE)
    max_connections: int = field(default=4096, metadata=_LIVE)
    header_seconds: float = field(default=10.0, metadata=_LIVE)
    body_seconds: float = field(default=30.0, metadata=_LIVE)
    write_seconds: float = field(default=30.0, metadata=_LIVE)
    keep_alive_seconds: int = 75
    max_body_mib: int = field(default=16, metadata=_LIVE)
    max_upload_mib: int = field(default=512, metadata=_LIVE)
    document_vectors: Literal["spelling", "model"] = "spelling"
    audit: bool = True
    audit_dir: Path | None = None
    audit_mirror: Path | None = None
    audit_content: bool = False
    audit_content_days: float | None = None
    reviewers: int = field(default=1, metadata=_LIVE)
    review_flags: tuple[Literal["flag", "redact", "ask", "block"], ...] = field(
        default=("flag", "ask", "block"), metadata=_LIVE
    )

    def __post_init__(self) -> None:
        for name in (
            "header_seconds",
            "body_seconds",
            "write_seconds",
            "max_connections",
            "max_body_mib",
            "max_upload_mib",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} = {getattr(self, name)}", remedy="it must be above 0")
        for name in ("most_loaded", "models_mib", "unload_seconds", "audit_content_days"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} = {value}", remedy="it must be above 0")
        if self.reviewers not in (1, 2):
            raise ConfigError(f"reviewers = {self.reviewers}", remedy="1, or 2 who must agree")
        if self.grace < 0:
            raise ConfigError(f"grace = {self.grace}", remedy="it must be 0 or more")
        if not 0 <= self.trace_share <= 1:
            raise ConfigError(f"trace_share = {self.trace_share}", remedy="it must be between 0 and 1")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key belong together", remedy="give both or none")


def resolve_settings(
    flags: Mapping[str, Any], *, file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> ServeSettings:
    """Args: flags: those that were given.

    Raises:
        ConfigError: a file that is none, an unknown key, a value that does not fit.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values |= _checked(_read(file), str(file))
    variables = {
        name.removeprefix(PREFIX).lower(): text
        for name, text in environment.items()
        if name.startswith(PREFIX)
    }
    variables.pop("config", None)
    values |= _checked(variables, "the environment", prefix=PREFIX)
    return ServeSettings(**values | _checked(flags, "the command line"))


def changes(old: ServeSettings, new: ServeSettings) -> tuple[list[str], list[str]]:
    """Names that differ: those that take effect at once, and those that need a new start."""
    live: list[str] = []
    fixed: list[str] = []
    for one in dataclasses.fields(ServeSettings):
        if getattr(old, one.name) != getattr(new, one.name):
            (live if one.metadata.get("live") else fixed).append(one.name)
    return live, fixed


def keep_fixed(old: ServeSettings, new: ServeSettings) -> ServeSettings:
    """`new`, with what needs a new start as it was."""
    _, fixed = changes(old, new)
    return dataclasses.replace(new, **{name: getattr(old, name) for name in fixed})


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})", remedy="check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML ({error})", remedy="mend it; the old settings stay") from error


def _checked(values: Mapping[str, Any], where: str, *, prefix: str = "") -> dict[str, Any]:
    from pydantic import TypeAdapter, ValidationError

    types = get_type_hints(ServeSettings)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            shown, known = (
                (prefix + name.upper(), [prefix + one.upper() for one in types])
                if prefix
                else (name, [*types])
            )
            raise ConfigError(f'{where}: unknown key "{shown}"', remedy=did_you_mean(shown, known))
        if prefix and get_origin(types[name]) is tuple:
            value = [part for part in value.split(",") if part]
        try:
            checked[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(
                f"{where}: {name} = {value!r}", remedy=problem[0].lower() + problem[1:]
            ) from error
    return checked
