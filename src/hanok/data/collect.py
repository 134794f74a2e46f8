"""Step 1: documents from files, archives and standard input, as a corpus that says where each comes from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.data.config import CollectConfig, SourceConfig
from hanok.data.corpus import CorpusWriter, Document
from hanok.data.readers.encoding import describe
from hanok.data.readers.files import BROKEN, Source, expand, open_sources
from hanok.data.readers.formats import read
from hanok.data.readers.records import Record, Skipped, UnreadableError
from hanok.errors import InputError
from hanok.reporting import Report, log, progress
from hanok.reporting.console import Progress

_EXAMPLES = 3


def collect(config: CollectConfig, out: Path) -> Artefact:
    """Read every source into one corpus.

    Raises:
        InputError: a source names nothing, nothing could be read, or (unless `skip_unreadable`) a file could not.
    """
    if not config.sources:
        raise InputError("nothing to collect", remedy="name files, folders or globs")
    found = [
        (source, expand(source.path)) for source in config.sources
    ]  # a misspelt path fails before anything is read
    step = dataclasses.asdict(config)
    with create_artefact(out, kind="corpus", step=step) as draft, progress("collect", None, "bytes") as bar:
        tallies = []
        with CorpusWriter(draft.path) as writer:
            for source, files in found:
                tally = Tally(_name(source), source.licence)
                _Collector(config, source, tally, writer, bar).run(files)
                tallies.append(tally)
            if writer.documents == 0:
                raise InputError(
                    f"no document could be read: {_reasons(tallies)}", remedy="see the reasons above"
                )
        skipped = sum(len(tally.unreadable) for tally in tallies)
        draft.metrics |= {
            "documents": writer.documents, "characters": writer.characters, "unreadable_files": skipped,
            "skipped_rows": sum(sum(tally.skipped.values()) for tally in tallies),
        }  # fmt: skip
        if skipped:
            log.warning("collect: %d files could not be read; the report says why", skipped)
        _report(tallies, draft.path)
    return open_artefact(out, kind="corpus")


@dataclass(slots=True)
class Tally:
    """What one source gave."""

    name: str
    licence: str
    files: int = 0
    documents: int = 0
    conversations: int = 0
    characters: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)


class _LimitReachedError(Exception):
    """The source's limit is reached."""


class _Collector:
    """Reads one source."""

    def __init__(
        self, config: CollectConfig, source: SourceConfig, tally: Tally, writer: CorpusWriter, bar: Progress
    ) -> None:
        self.config, self.source, self.tally, self.writer, self.bar = config, source, tally, writer, bar
        self.bytes = 0

    def run(self, files: list[tuple[str, Path | None]]) -> None:
        try:
            for name, file in files:
                try:
                    with closing(open_sources(name, file)) as streams:
                        for stream in streams:
                            self._stream(stream)
                except (
                    UnreadableError,
                    *BROKEN,
                ) as error:  # the file itself, or the archive around its members
                    self._unreadable(name, error)
        except _LimitReachedError:
            pass

    def _stream(self, stream: Source) -> None:
        self.tally.files += 1
        encoding = ""
        try:
            records, form, encoding = read(stream, self.source, self.config.max_document_bytes)
            self.tally.formats[form] += 1
            if encoding:
                self.tally.encodings[encoding] += 1
            for number, record in enumerate(records):
                if isinstance(record, Skipped):
                    self.tally.skipped[record.reason] += 1
                else:
                    self._keep(record, stream.name, number, form)
        except UnicodeDecodeError as error:
            reason = describe(error, stream.name, encoding)
            self._unreadable(stream.name, UnreadableError(reason, remedy='set encoding, for example "cp949"'))
        except UnreadableError as error:
            self._unreadable(stream.name, error)

    def _keep(self, record: Record, name: str, number: int, form: str) -> None:
        source, tally = self.source, self.tally
        prefix = tally.name if name == tally.name else f"{tally.name}/{name}"
        # parts of one text or article stay together; rows are on their own unless a column groups them
        group = f"{tally.name if source.group_field else prefix}#{record.group}" if record.group else ""
        if not group and record.messages is None and form in ("text", "markdown"):
            group = prefix
        document = Document(
            id=f"{prefix}#{record.id}" if record.id and form != "wiki" else f"{prefix}#{number}",
            source=tally.name, licence=tally.licence, text=record.text, messages=record.messages,
            group=group, lang=record.lang, meta=dict(record.meta),
        )  # fmt: skip
        if source.pii == "exempt":
            document.meta["pii"] = "exempt"
        content = document.content()
        size = len(content.encode("utf-8", "surrogatepass"))
        self.writer.write(document)
        tally.documents += 1
        tally.conversations += record.messages is not None
        tally.characters += len(content)
        if len(tally.examples) < _EXAMPLES:
            tally.examples.append((f"{tally.name}: {document.id}", content[:600]))
        self.bytes += size
        self.bar.advance(size)
        if (source.limit and tally.documents >= source.limit) or (
            source.limit_bytes and self.bytes >= source.limit_bytes
        ):
            raise _LimitReachedError

    def _unreadable(self, name: str, error: BaseException) -> None:
        if isinstance(error, UnreadableError):
            reason = str(error)
        else:
            reason = f"{name} is damaged ({type(error).__name__}: {error})"
        if not self.config.skip_unreadable:
            raise InputError(reason, remedy="mend or remove it, or set skip_unreadable = true") from error
        self.tally.unreadable.append((name, reason))
        log.warning("collect: %s", reason)


def _name(source: SourceConfig) -> str:
    if source.name:
        return source.name
    return (
        "stdin" if source.path == "-" else Path(source.path).name.split("*")[0].rstrip("-_.") or "documents"
    )


def _reasons(tallies: list[Tally]) -> str:
    reasons = [reason for tally in tallies for _, reason in tally.unreadable]
    reasons += [
        f"{reason} ({count} rows)" for tally in tallies for reason, count in tally.skipped.most_common(2)
    ]
    shown = "; ".join(reasons[:3]) or "the files are empty"
    return shown + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _report(tallies: list[Tally], directory: Path) -> None:
    report = Report("Collect")
    columns = (
        "source",
        "licence",
        "files",
        "documents",
        "conversations",
        "characters",
        "formats",
        "encodings",
    )
    rows = [
        (
            t.name,
            t.licence,
            t.files,
            t.documents,
            t.conversations,
            t.characters,
            _counts(t.formats),
            _counts(t.encodings),
        )
        for t in tallies
    ]
    report.add_table("Sources", columns, rows)
    unreadable = [(t.name, name, reason) for t in tallies for name, reason in t.unreadable]
    if unreadable:
        report.add_table(
            f"Files that could not be read ({len(unreadable)})", ("source", "file", "why"), unreadable[:200]
        )
    skipped = [(t.name, reason, count) for t in tallies for reason, count in t.skipped.most_common(20)]
    if skipped:
        report.add_table("Rows that were left out", ("source", "why", "rows"), skipped)
    report.add_examples("Examples", [example for tally in tallies for example in tally.examples])
    report.write(directory)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())
