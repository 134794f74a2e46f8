"""TOML to typed frozen dataclasses, with errors that name the file, the section and the nearest key.

Precedence: the dataclasses' defaults < the recipe < `--set section.key=value`.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from hanok.errors import ConfigError, did_you_mean

T = TypeVar("T")


def find_recipe(name_or_path: str) -> Path:
    """The file of a shipped recipe by name, or a path to one's own.

    Raises:
        ConfigError: neither; names the nearest shipped recipe.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"no recipe file at {path}", remedy="check the path")
        return path
    library = Path(str(resources.files("hanok.recipes") / "library"))
    shipped = {file.stem: file for file in sorted(library.glob("*.toml"))}
    if name_or_path not in shipped:
        raise ConfigError(
            f'no shipped recipe "{name_or_path}"',
            remedy=f"{did_you_mean(name_or_path, shipped)} A path must end in .toml",
        )
    return shipped[name_or_path]


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError with the line of a syntax error."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path.name}: {error}", remedy="mend the TOML at that place") from error


def apply_settings(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with each "a.b=c" applied; c is a TOML value, or else taken as a string.

    An integer index reaches into a list of tables: `collect.sources.0.limit_bytes=1000`.
    """
    values = _copy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f'--set "{setting}"', remedy="write it as section.key=value")
        place: Any = values
        *parents, last = key.strip().split(".")
        for word in parents:
            place = _step_into(place, word, setting)
        try:
            value = tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            value = text
        _assign(place, last, value, setting)
    return values


def build(cls: type[T], values: Mapping[str, Any], *, where: str, source: str) -> T:
    """Construct a (nested) dataclass from TOML values.

    Args:
        where: dotted path of the section, for messages. source: the recipe's name.

    Raises:
        ConfigError: unknown or missing key, wrong type, or a rule of the dataclass itself.
    """
    place = f"recipe {source}, [{where}]" if where else f"recipe {source}"
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(f'{place}: unknown key "{key}"', remedy=did_you_mean(key, fields))
    arguments = {
        key: _convert(hints[key], value, where=f"{where}.{key}" if where else key, source=source)
        for key, value in values.items()
    }
    missing = [
        name
        for name, f in fields.items()
        if name not in arguments
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f'{place}: "{missing[0]}" is missing', remedy="add it")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", remedy=error.remedy) from error


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON and TOML values; None is kept."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(annotation: Any, value: Any, *, where: str, source: str) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where=where, source=source)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) and isinstance(value, Mapping):
        return build(annotation, value, where=where, source=source)
    if origin in (tuple, list, Sequence) and isinstance(value, list):
        inner = arguments[0] if arguments else Any
        items = [_convert(inner, item, where=f"{where}.{i}", source=source) for i, item in enumerate(value)]
        return items if origin is list else tuple(items)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {
            key: _convert(arguments[1] if arguments else Any, item, where=f"{where}.{key}", source=source)
            for key, item in value.items()
        }
    if annotation is Any or _fits(annotation, origin, arguments, value):
        return Path(value) if annotation is Path else float(value) if annotation is float else value
    raise ConfigError(
        f"recipe {source}, {where} = {value!r}: expected {_name(annotation)}, found {type(value).__name__}",
        remedy="change the value",
    )


def _convert_union(members: Sequence[Any], value: Any, *, where: str, source: str) -> Any:
    if value == "none" and type(None) in members and str not in members:
        return None
    errors: list[ConfigError] = []
    for member in members:
        if member is type(None):
            continue
        try:
            return _convert(member, value, where=where, source=source)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _fits(annotation: Any, origin: Any, arguments: Sequence[Any], value: Any) -> bool:
    from typing import Literal

    if origin is Literal:
        return value in arguments and type(value) in {type(a) for a in arguments}
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is Path:
        return isinstance(value, str)
    return isinstance(annotation, type) and isinstance(value, annotation)


def _name(annotation: Any) -> str:
    from typing import Literal

    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(a) for a in get_args(annotation))
    return (
        getattr(annotation, "__name__", str(annotation))
        if get_origin(annotation) is None
        else str(annotation)
    )


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _step_into(place: Any, word: str, setting: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, word, setting)]
    if not isinstance(place, dict):
        raise ConfigError(
            f'--set "{setting}": "{word}" lies inside a value that is no section', remedy="check the key"
        )
    return place.setdefault(word, {})


def _assign(place: Any, word: str, value: Any, setting: str) -> None:
    if isinstance(place, list):
        place[_index(place, word, setting)] = value
    elif isinstance(place, dict):
        place[word] = value
    else:
        raise ConfigError(
            f'--set "{setting}": "{word}" lies inside a value that is no section', remedy="check the key"
        )


def _index(items: list[Any], word: str, setting: str) -> int:
    if not word.isdigit() or int(word) >= len(items):
        raise ConfigError(
            f'--set "{setting}": "{word}" is no index of a list of {len(items)}', remedy="count from 0"
        )
    return int(word)
