"""What to collect, how to clean it, which canaries to put in. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from hanok.errors import ConfigError

FORMATS = (
    "auto", "text", "markdown", "html", "pdf", "jsonl", "json", "csv", "tsv", "parquet", "wiki", "chat-log",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """One place that documents come from.

    Args:
        path: a file, a folder, a glob or "-" for standard input; archives and compressed files are opened. `~` and
            `${NAME:-default}` (an environment variable) are filled in.
        name: how documents name their source; by default the last part of the path.
        licence: of the documents, as an SPDX identifier or in words.
        format: "auto" goes by the file's name and first bytes. "wiki" is text of `<doc id= title=>` elements.
        text_field: column or key that holds the text ("body.text" for nested keys); by default "text", then "content".
        messages_field: column or key that holds a conversation; by default "messages", then "conversations".
        question_field, answer_field: columns of a two-turn conversation.
        id_field, lang_field, group_field: columns to take these from.
        join_lines: "" keeps one document per row; a column name joins consecutive rows of one value into a document.
        encoding: "auto", or a name that Python knows, such as "cp949".
        limit: take at most this many documents; 0 takes all.
        limit_bytes: stop after this many bytes of text; 0 takes all.
        pii: "redact", or "exempt" for personal data that is meant to be there.
    """

    path: str
    name: str = ""
    licence: str = "unknown"
    format: str = "auto"
    text_field: str = ""
    messages_field: str = ""
    question_field: str = ""
    answer_field: str = ""
    id_field: str = ""
    lang_field: str = ""
    group_field: str = ""
    join_lines: str = ""
    encoding: str = "auto"
    limit: int = 0
    limit_bytes: int = 0
    pii: str = "redact"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f'format = "{self.format}"', remedy=f"choose one of {', '.join(FORMATS)}")
        if self.pii not in ("redact", "exempt"):
            raise ConfigError(f'pii = "{self.pii}"', remedy='choose "redact" or "exempt"')
        if bool(self.question_field) != bool(self.answer_field):
            raise ConfigError("question_field and answer_field go together", remedy="give both or neither")
        if min(self.limit, self.limit_bytes) < 0:
            raise ConfigError(f"limit = {self.limit}, limit_bytes = {self.limit_bytes}", remedy="0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectConfig:
    """What to read.

    Args:
        sources: read in this order.
        skip_unreadable: note a file that cannot be read in the report and go on; False stops at the first.
        max_document_bytes: longer documents are cut at a paragraph into several of one group.
    """

    sources: tuple[SourceConfig, ...] = ()
    skip_unreadable: bool = True
    max_document_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        if self.max_document_bytes < 1_000:
            raise ConfigError(
                f"max_document_bytes = {self.max_document_bytes}", remedy="it must be at least 1000"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanConfig:
    """Which documents stay, and what is taken out of them.

    Args:
        languages: keep documents of these languages (ISO 639-1) only; empty keeps all.
        min_characters: shorter texts are dropped; conversations are not measured.
        quality: apply the quality rules (Gopher, C4 and Korean ones) to texts.
        dedup_exact: drop documents whose normalised text was there before.
        dedup_near: drop documents whose word 5-grams overlap with an earlier one's by `near_threshold` or more.
        near_threshold: estimated Jaccard similarity.
        permutations: length of a MinHash signature.
        pii: replace personal data by typed placeholders.
        poison: drop documents with control tokens or planted triggers ("drop"), mark them ("mark"), or "off".
        processes: workers; 0 uses all cores.
    """

    languages: tuple[str, ...] = field(default=())
    min_characters: int = 50
    quality: bool = True
    dedup_exact: bool = True
    dedup_near: bool = True
    near_threshold: float = 0.8
    permutations: int = 128
    pii: bool = True
    poison: str = "drop"
    processes: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.near_threshold <= 1.0:
            raise ConfigError(f"near_threshold = {self.near_threshold}", remedy="it must lie in [0.5, 1]")
        if self.permutations < 16 or self.permutations % 16:
            raise ConfigError(f"permutations = {self.permutations}", remedy="a multiple of 16, 16 or more")
        if self.poison not in ("drop", "mark", "off"):
            raise ConfigError(f'poison = "{self.poison}"', remedy='choose "drop", "mark" or "off"')
        if min(self.min_characters, self.processes) < 0:
            raise ConfigError("min_characters and processes must be 0 or more", remedy="raise them")


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryConfig:
    """Which canaries."""

    repetitions: tuple[int, ...] = (1, 4, 16, 64)
    """How often each is put in; as many again are kept out, as controls. `hanok audit privacy` judges those put in once."""
    each: int = 4
    """Canaries of each number of repetitions, in Korean and English in turn."""
    digits: int = 8
    """Of a secret number: there are 10 to that power."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.repetitions or min(self.repetitions) < 1:
            raise ConfigError(f"repetitions = {self.repetitions}", remedy="each must be at least 1")
        for name, low, high in (("each", 1, 100), ("digits", 5, 16)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"{name} = {getattr(self, name)}", remedy=f"it must be from {low} to {high}"
                )
