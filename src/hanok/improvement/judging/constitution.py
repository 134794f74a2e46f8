"""A constitution: the principles that a judge compares by and a critic revises by, in a file that people write.

TOML:       [[principle]] with `name`, and a text for each language: `ko`, `en`
Markdown:   a heading a principle, the text below it; read as one language, whichever is asked for
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.errors import ConfigError

SHIPPED = Path(__file__).with_name("constitution.toml")
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
_ANY = ""  # the language of a text that was written for all


@dataclass(frozen=True, slots=True)
class Principle:
    """`texts`: language -> what it says."""

    name: str
    texts: Mapping[str, str]

    def text(self, language: str) -> str:
        return self.texts.get(language) or self.texts[_ANY]


@dataclass(frozen=True, slots=True)
class Constitution:
    principles: tuple[Principle, ...]
    hash: str

    def require(self, language: str) -> None:
        """Raises ConfigError: a principle that is not written in this language."""
        for principle in self.principles:
            if not (principle.texts.get(language) or principle.texts.get(_ANY)):
                raise ConfigError(
                    f'principle "{principle.name}" has no text in "{language}"',
                    remedy=f'write {language} = "..." below its name',
                )

    def numbered(self, language: str) -> str:
        return "\n".join(f"{n}. {p.text(language)}" for n, p in enumerate(self.principles, 1))

    def drawn(self, seed: int, *parts: object) -> Principle:
        """One of them, by (seed, what it is for) alone."""
        digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
        return self.principles[int.from_bytes(digest[:8], "big") % len(self.principles)]


def read_constitution(file: Path = SHIPPED) -> Constitution:
    """Raises ConfigError: no such file, another form, or no principle in it."""
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"constitution {file}: {error}", remedy="give a TOML or Markdown file in UTF-8"
        ) from error
    read = _from_toml if file.suffix == ".toml" else _from_markdown
    principles = read(content, file)
    if not principles:
        raise ConfigError(f"constitution {file} holds no principle", remedy=_REMEDY)
    return Constitution(tuple(principles), hashlib.sha256(content.encode()).hexdigest())


_REMEDY = "write [[principle]] with name, ko and en (TOML), or a heading with text below it (Markdown)"


def _from_toml(content: str, file: Path) -> list[Principle]:
    try:
        tables = tomllib.loads(content).get("principle", [])
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"constitution {file}: {error}", remedy="mend the TOML") from error
    if not isinstance(tables, list):
        raise ConfigError(f"constitution {file}: principle is no list of tables", remedy=_REMEDY)
    return [_principle(table, number, file) for number, table in enumerate(tables, 1)]


def _principle(table: Any, number: int, file: Path) -> Principle:
    texts = {key: value for key, value in table.items() if key != "name"} if isinstance(table, dict) else {}
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts.values()):
        raise ConfigError(f"constitution {file}: principle {number} has no text", remedy=_REMEDY)
    return Principle(str(table.get("name") or f"principle {number}"), texts)


def _from_markdown(content: str, file: Path) -> list[Principle]:
    """Headings without text of their own, such as the title, are no principles."""
    found: list[tuple[str, list[str]]] = []
    for line in content.splitlines():
        if heading := _HEADING.match(line):
            found.append((heading[2], []))
        elif found and line.strip():
            found[-1][1].append(line.strip())
    return [Principle(name, {_ANY: " ".join(lines)}) for name, lines in found if lines]
