"""Step 2: normalise, tell the language, reject what breaks a rule, drop duplicates, redact personal data, look for planted text.

Workers do what concerns one document; this process, in the order of the corpus, what concerns several. The result does not
depend on the number of workers.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.data import dedup, pii, poison
from hanok.data.config import CleanConfig
from hanok.data.corpus import CorpusWriter, Document, count_documents, iter_tables
from hanok.data.language import identify
from hanok.data.normalise import normalise
from hanok.data.quality import Rejected, judge, judge_conversation
from hanok.errors import InputError
from hanok.reporting import Report, progress

_CHUNK_CHARACTERS = 1_000_000
_SMALL = 3_000_000  # characters below which starting workers costs more than it saves
_EXAMPLES = 3


def clean(config: CleanConfig, corpus: Path, out: Path) -> Artefact:
    """A corpus of what is left, with a report of what is not.

    Raises:
        InputError: nothing is left; names the commonest reasons.
    """
    parent = open_artefact(corpus, kind="corpus")
    total = count_documents(corpus)
    if total == 0:
        raise InputError(f"{corpus} holds no documents", remedy="collect some first")
    with create_artefact(
        out, kind="corpus", parents={"corpus": parent}, step=dataclasses.asdict(config)
    ) as draft:
        tally = Tally()
        scanner = poison.Scanner() if config.poison != "off" else None
        with ExitStack() as stack:
            bar = stack.enter_context(progress("clean", total, "documents"))
            seen = stack.enter_context(
                dedup.Duplicates(
                    exact=config.dedup_exact, near=config.dedup_near, threshold=config.near_threshold
                )
            )
            writer = stack.enter_context(CorpusWriter(draft.path))
            for chunk in _prepared(config, corpus):
                for prepared in chunk:
                    _decide(config, prepared, seen, scanner, writer, tally)
                bar.advance(len(chunk))
        if writer.documents == 0:
            reasons = ", ".join(f"{name} ({count})" for name, count in tally.dropped.most_common(4))
            raise InputError(
                f"no document is left of {total}: {reasons}",
                remedy="loosen [clean], or collect other documents",
            )
        _remove_triggered(config, scanner, draft.path, tally)
        kept = total - tally.dropped.total()
        draft.metrics |= {"documents": kept, "dropped": tally.dropped.total(), **dict(tally.dropped)}
        _report(tally, total, kept, draft.path)
    return open_artefact(out, kind="corpus")


@dataclass(slots=True)
class Prepared:
    """A document after its worker: normalised, judged and redacted."""

    document: Document
    characters: int
    repairs: Counter[str]
    rejected: Rejected | None = None
    fingerprint: dedup.Fingerprint | None = None
    exact: bytes = b""
    found: list[tuple[str, str, str]] = field(
        default_factory=list
    )  # kind, what, with its surroundings masked
    planted: list[poison.Finding] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """Counts and examples for the report."""

    dropped: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    repairs: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    personal_examples: dict[str, list[str]] = field(default_factory=dict)
    planted: list[tuple[str, str, str, str]] = field(default_factory=list)

    def drop(self, reason: str, prepared: Prepared, why: str) -> None:
        self.dropped[reason] += 1
        self.characters[reason] += prepared.characters
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            text = pii.redact(prepared.document.content()[:500])[0]
            shown.append((f"{reason}: {why} · {prepared.document.id}", text[:400]))


# -- in the workers


def prepare(config: CleanConfig, rows: list[dict[str, Any]]) -> list[Prepared]:
    """What can be said of each document by itself."""
    return [_prepare(config, Document.from_row(row)) for row in rows]


def _prepare(config: CleanConfig, document: Document) -> Prepared:
    repairs = _normalise(document)
    content = document.content()
    prepared = Prepared(document, len(content), repairs)
    if document.lang is None:
        document.lang = identify(content)
    exempt = document.meta.get("clean") == "exempt"
    if not exempt:
        prepared.rejected = _judge(config, document, content)
        if prepared.rejected is not None:
            return prepared
        if config.dedup_near and document.text is not None:
            prepared.fingerprint = dedup.fingerprint(
                content, threshold=config.near_threshold, permutations=config.permutations
            )
    if config.dedup_exact and not exempt:
        prepared.exact = prepared.fingerprint.exact if prepared.fingerprint else dedup.exact_hash(content)
    if config.poison != "off":
        prepared.planted = poison.scan_text(content)
    if config.pii and document.meta.get("pii") != "exempt":
        prepared.found = _redact(document)
    return prepared


def _normalise(document: Document) -> Counter[str]:
    if document.text is not None:
        document.text, repairs = normalise(document.text)
        return repairs
    repairs = Counter[str]()
    for message in document.messages or []:
        if isinstance(message.get("content"), str):
            message["content"], found = normalise(message["content"])
            repairs += found
    return repairs


def _judge(config: CleanConfig, document: Document, content: str) -> Rejected | None:
    language = document.lang or "und"
    if config.languages and language not in config.languages:
        return Rejected("language", 0, f"{language}, not {' or '.join(config.languages)}")
    if document.messages is not None:
        return judge_conversation(document.messages) if config.quality else None
    if not config.quality:
        return (
            None
            if len(content) >= config.min_characters
            else Rejected("too_short", len(content), f"at least {config.min_characters}")
        )
    return judge(content, language, min_characters=config.min_characters)


def _redact(document: Document) -> list[tuple[str, str, str]]:
    if document.text is not None:
        before = document.text
        document.text, found = pii.redact(before)
        return [(item.kind, _masked(item.text), _context(before, item)) for item in found]
    document.messages, found = pii.redact_messages(document.messages or [])
    return [(item.kind, _masked(item.text), "") for item in found]


def _masked(text: str) -> str:
    """The first two characters and the form: "01*-****-****"."""
    return text[:2] + "".join("*" if c.isalnum() else c for c in text[2:])


def _context(text: str, item: pii.Found) -> str:
    if text[item.start : item.end] != item.text:
        return ""  # seen only once others were gone
    before, after = text[max(0, item.start - 30) : item.start], text[item.end : item.end + 20]
    return f"…{pii.redact(before)[0]}{_masked(item.text)}{pii.redact(after)[0]}…"


# -- in this process


def _chunks(corpus: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for table in iter_tables(corpus):
        for row in table.to_pylist():
            rows.append(row)
            size += len(row["text"] or row["messages"])
            if size >= _CHUNK_CHARACTERS:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


def _prepared(config: CleanConfig, corpus: Path) -> Iterator[list[Prepared]]:
    """Chunks in the order of the corpus; a few more than there are workers wait, so that memory stays bounded."""
    workers = config.processes or os.cpu_count() or 1
    chunks = _chunks(corpus)
    first = next(chunks)
    size = sum(file.stat().st_size for file in corpus.glob("documents-*.parquet"))
    if workers == 1 or size < _SMALL:
        yield prepare(config, first)
        for rows in chunks:
            yield prepare(config, rows)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: list[Future[list[Prepared]]] = [pool.submit(prepare, config, first)]
        try:
            for rows in chunks:
                waiting.append(pool.submit(prepare, config, rows))
                if len(waiting) > workers + 2:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decide(
    config: CleanConfig, prepared: Prepared, seen: dedup.Duplicates, scanner: poison.Scanner | None,
    writer: CorpusWriter, tally: Tally,
) -> None:  # fmt: skip
    document = prepared.document
    tally.repairs += prepared.repairs
    tally.repaired += bool(prepared.repairs)
    tally.languages[document.lang or "und"] += 1
    if prepared.rejected is not None:
        rejected = prepared.rejected
        tally.drop(rejected.rule, prepared, f"{rejected.value:.3g}, {rejected.threshold}")
        return
    if prepared.exact and (earlier := seen.exact_of(document.id, prepared.exact)) is not None:
        tally.drop("exact_duplicate", prepared, f"same as {earlier}")
        return
    if (
        prepared.fingerprint is not None
        and (near := seen.near_of(document.id, prepared.fingerprint)) is not None
    ):
        tally.drop("near_duplicate", prepared, f"overlap {near[1]:.2f} with {near[0]}")
        return
    if scanner is not None:
        scanner.scan(document)
        for finding in prepared.planted:
            tally.planted.append((finding.kind, finding.text, finding.reason, document.id))
        if any(finding.severe for finding in prepared.planted):
            if config.poison == "drop":
                tally.drop("planted_text", prepared, prepared.planted[0].reason)
                return
            document.meta["planted"] = [finding.reason for finding in prepared.planted]
    for kind, masked, context in prepared.found:
        tally.personal[kind] += 1
        shown = tally.personal_examples.setdefault(kind, [])
        if len(shown) < _EXAMPLES:
            shown.append(context or masked)
    writer.write(document)


def _remove_triggered(
    config: CleanConfig, scanner: poison.Scanner | None, directory: Path, tally: Tally
) -> None:
    """Conversations with a planted trigger show only when all were seen: the corpus is written once more without them."""
    findings = scanner.finish() if scanner is not None else []
    triggered = {identifier: finding for finding in findings for identifier in finding.documents}
    for finding in findings:
        tally.planted.append(
            (finding.kind, finding.text, finding.reason, f"{len(finding.documents)} conversations")
        )
    if not triggered or config.poison != "drop":
        return
    whole = directory / "whole"
    whole.mkdir()
    for file in (*directory.glob("documents-*.parquet"), directory / "corpus.json"):
        file.rename(whole / file.name)
    with CorpusWriter(directory) as writer:
        for table in iter_tables(whole):
            for row in table.to_pylist():
                document = Document.from_row(row)
                if document.id in triggered:
                    tally.drop(
                        "trigger",
                        Prepared(document, len(document.content()), Counter()),
                        triggered[document.id].reason,
                    )
                else:
                    writer.write(document)
    for file in whole.iterdir():
        file.unlink()
    whole.rmdir()


def _report(tally: Tally, total: int, kept: int, directory: Path) -> None:
    report = Report("Clean")
    report.add_text("In short", f"{kept:,} of {total:,} documents are kept; {tally.repaired:,} were repaired; "
                    f"{tally.personal.total():,} pieces of personal data were replaced.")  # fmt: skip
    rows = [
        (name, count, f"{count / total:.2%}", tally.characters[name])
        for name, count in tally.dropped.most_common()
    ]
    report.add_table("Dropped", ("reason", "documents", "share", "characters"), rows)
    report.add_table("Languages", ("language", "documents"), tally.languages.most_common(20))
    report.add_table("Repairs", ("repair", "times"), tally.repairs.most_common())
    report.add_table(
        "Personal data (masked)", ("kind", "times", "examples"),
        [(kind, count, " | ".join(tally.personal_examples[kind])) for kind, count in tally.personal.most_common()],
    )  # fmt: skip
    if tally.planted:
        report.add_table("Planted text", ("kind", "text", "why", "where"), tally.planted[:200])
    report.add_examples(
        "Examples of what was dropped", [item for shown in tally.examples.values() for item in shown]
    )
    report.write(directory)
