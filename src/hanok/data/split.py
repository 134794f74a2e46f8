"""Train, validation and test: by a hash of each document's group, and without leaks.

A group goes where the hash of its name falls, so adding documents moves none that were there. A producer may fix the
split of its documents (`meta.split`), and takes the rest of their group along.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.data.config_tokens import SplitConfig
from hanok.data.corpus import CorpusWriter, count_documents, iter_tables, read_corpus
from hanok.data.decontaminate import Leak, LeakFinder, Text
from hanok.data.evaluation_sets import evaluation_texts
from hanok.errors import InputError
from hanok.reporting import Report, log, progress
from hanok.reporting.console import Progress

PARTS = ("train", "validation", "test")
_EXAMPLES = 12


def split(config: SplitConfig, corpus: Path, out: Path) -> Artefact:
    """Write `train/`, `validation/` and `test/`, each a corpus.

    Raises:
        InputError: no documents, too few groups for the wanted parts, or a group fixed in two parts.
    """
    parent = open_artefact(corpus, kind="corpus")
    documents = count_documents(corpus)
    if documents == 0:
        raise InputError(f"{corpus} holds no documents", remedy="collect some, or loosen the cleaning rules")
    plan = make_plan(config, corpus)
    with (
        create_artefact(
            out, kind="split", parents={"corpus": parent}, step=dataclasses.asdict(config)
        ) as draft,
        progress("split", documents * (3 if config.decontaminate else 1), "reads") as bar,
    ):
        finder = LeakFinder(
            words=config.words, characters=config.characters, scaffold_groups=config.scaffold_groups
        )
        leaks = find_leaks(config, corpus, plan, finder, bar) if config.decontaminate else {}
        counts, characters, examples = _write(corpus, plan, leaks, finder, draft.path, bar)
        if not counts["train"]:
            raise InputError(
                "nothing is left for train: every document is held out or overlaps with one that is",
                remedy="hold out less, or remove duplicates first",
            )
        kinds = Counter(leak.kind for leak in leaks.values())
        draft.metrics |= {part: counts[part] for part in PARTS} | {"leaks_removed": len(leaks)}
        _report(config, plan, counts, characters, kinds, finder, examples, draft.path)
    return open_artefact(out, kind="split")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which part each group goes to. `numbers` are the groups' numbers in order of appearance."""

    parts: Mapping[str, str]
    numbers: Mapping[str, int]
    fixed: int


def make_plan(config: SplitConfig, corpus: Path) -> Plan:
    """Assign every group of a corpus."""
    fixed: dict[str, str] = {}
    groups: dict[str, int] = {}
    for table in iter_tables(corpus, columns=("id", "group", "meta")):
        for row in table.to_pylist():
            groups.setdefault(row["group"], len(groups))
            part = _fixed_part(row)
            if part is None:
                continue
            if fixed.setdefault(row["group"], part) != part:
                raise InputError(
                    f"group {row['group']!r} is fixed in {fixed[row['group']]} and (document {row['id']}) in {part}",
                    remedy="documents of one group stay together: give them other groups or one meta.split",
                )
    parts = {group: fixed.get(group) or hashed_part(group, config) for group in groups}
    _fill_empty(parts, fixed, config)
    return Plan(parts, groups, len(fixed))


def hashed_part(group: str, config: SplitConfig) -> str:
    """Where a group's hash falls: depends on its name, the seed and the shares alone."""
    place = _hash(group, config.seed)
    if place < config.test:
        return "test"
    return "validation" if place < config.test + config.validation else "train"


def find_leaks(
    config: SplitConfig, corpus: Path, plan: Plan, finder: LeakFinder, bar: Progress
) -> dict[str, Leak]:
    """Train documents that overlap with validation, test or a named evaluation set, by id."""
    for text in _texts(corpus, plan, bar):
        if plan.parts[text[0]] != "train":
            finder.hold(text[1])
    for number, (name, text) in enumerate(evaluation_texts(config.evaluation)):
        finder.hold(Text(name, len(plan.numbers) + number, text), named=True)
    for text in _texts(corpus, plan, bar):
        if plan.parts[text[0]] == "train":
            finder.scan(text[1])
    return finder.leaks()


def _texts(corpus: Path, plan: Plan, bar: Progress) -> Iterator[tuple[str, Text]]:
    """Every document as (group, text)."""
    for table in iter_tables(corpus, columns=("id", "group", "meta", "text", "messages")):
        for row in table.to_pylist():
            content = row["text"] if row["text"] is not None else _contents(row["messages"])
            by_design = '"clean"' in (row["meta"] or "") and json.loads(row["meta"]).get("clean") == "exempt"
            yield row["group"], Text(row["id"], plan.numbers[row["group"]], content, by_design)
        bar.advance(table.num_rows)


def _contents(messages: str) -> str:
    return "\n".join(str(message.get("content") or "") for message in json.loads(messages))


def _fixed_part(row: Mapping[str, Any]) -> str | None:
    meta = row["meta"] or ""
    part = json.loads(meta).get("split") if '"split"' in meta else None
    if part is not None and part not in PARTS:
        raise InputError(f"document {row['id']}: meta.split = {part!r}", remedy=f"one of {', '.join(PARTS)}")
    return part


def _hash(group: str, seed: int) -> float:
    digest = hashlib.blake2b(
        group.encode("utf-8", "surrogatepass"), digest_size=8, key=str(seed).encode()
    ).digest()
    return int.from_bytes(digest, "big") / 2**64


def _fill_empty(parts: dict[str, str], fixed: Mapping[str, str], config: SplitConfig) -> None:
    """A wanted part that no hash fell into gets the group whose hash came nearest to it."""
    free = sorted(
        (group for group in parts if group not in fixed), key=lambda group: _hash(group, config.seed)
    )
    for part, share in (("test", config.test), ("validation", config.validation)):
        if share == 0 or part in parts.values():
            continue
        left = [group for group in free if parts[group] == "train"]
        others = sum(place == "train" for place in parts.values()) - 1
        if not left or others < 1:
            if fixed:
                log.warning("split: %s stays empty: the documents' producer fixed all other parts", part)
                continue
            raise InputError(
                f"{len(parts)} group(s) of documents are too few for train, validation and test",
                remedy="give more documents, or set validation = 0 and test = 0",
            )
        parts[left[0]] = part
        log.info("split: %s drew no group by hash; it gets %r", part, left[0])


def _write(
    corpus: Path, plan: Plan, leaks: Mapping[str, Leak], finder: LeakFinder, out: Path, bar: Progress
) -> tuple[Counter[str], Counter[str], list[tuple[str, str]]]:
    counts: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    examples: list[tuple[str, str]] = []
    with ExitStack() as stack:
        writers = {part: stack.enter_context(CorpusWriter(out / part)) for part in PARTS}
        for document in read_corpus(corpus):
            bar.advance(1)
            part = plan.parts[document.group]
            leak = leaks.get(document.id) if part == "train" else None
            if leak is None:
                writers[part].write(document)
                counts[part] += 1
                characters[part] += len(document.content())
            elif len(examples) < _EXAMPLES:
                shared = finder.shared_text(leak, document.content())
                examples.append((f"{leak.name} shares {leak.kind} with {leak.held_out}", shared))
    return counts, characters, examples


def _report(
    config: SplitConfig,
    plan: Plan,
    counts: Mapping[str, int],
    characters: Mapping[str, int],
    kinds: Mapping[str, int],
    finder: LeakFinder,
    examples: list[tuple[str, str]],
    out: Path,
) -> None:
    report = Report("Split")
    groups = Counter(plan.parts.values())
    report.add_table(
        "Parts",
        ("part", "documents", "groups", "characters"),
        [(part, counts[part], groups[part], characters[part]) for part in PARTS],
    )
    report.add_table(
        "Taken out of train because it overlaps with held-out text",
        ("reason", "documents"),
        [
            (f"{config.words} words in a row", kinds.get("words", 0)),
            (f"{config.characters} characters in a row", kinds.get("characters", 0)),
            ("identical to a held-out document", kinds.get("identical", 0)),
        ],
    )
    report.add_text(
        "Scaffold",
        f"{finder.scaffold_runs} held-out runs stand in more than {config.scaffold_groups} groups: "
        f"templates, not leaks. {plan.fixed} groups had their part fixed by their producer.",
    )
    report.add_examples("Examples of overlaps", examples)
    report.write(out)
