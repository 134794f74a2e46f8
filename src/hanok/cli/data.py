"""`hanok data ...`: steps 1 to 3, each on its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.data.config import CanaryConfig, CleanConfig, CollectConfig, SourceConfig
from hanok.data.config_tokens import ShardsConfig, SplitConfig, TokenizerConfig
from hanok.data.puzzles.config import LedgerConfig, ParityConfig
from hanok.data.village.config import AlignmentDataConfig, SafetyDataConfig, VillageConfig
from hanok.reporting import table

Folder = Annotated[Path, tyro.conf.Positional]
Options = tyro.conf.OmitArgPrefixes
_PUZZLE_NEXT = (
    "hanok train --shards {out} --mixture chat-train=1 --out MODEL; prompts to practise on lie beside"
)


def village(out: Path, config: VillageConfig = VillageConfig()) -> dict[str, Any]:
    """Write the embedded corpus: documents and dialogues of a fictional village, and held-out questions.

    Args:
        out: directory to make.
        config: size and seed.
    """
    from hanok.data.village.build import write_village

    return _done(write_village(config, out), "hanok data split {out} --out SPLIT")


def village_alignment(
    village: Folder, out: Path, config: AlignmentDataConfig = AlignmentDataConfig()
) -> dict[str, Any]:
    """Write a harder village: preference pairs, prompts with checkable answers, and an exam that shares none of them.

    Args:
        village: a corpus from `hanok data village`.
        out: directory to make.
        config: how much of each.
    """
    from hanok.data.village.alignment import write_alignment

    return _done(
        write_alignment(config, village, out),
        "hanok align dpo --model MODEL --data {out}/preferences.jsonl --out OUT",
    )


def canaries(corpus: Folder, out: Path, config: CanaryConfig = CanaryConfig()) -> dict[str, Any]:
    """Put sentences with random numbers into a corpus, so that an audit can ask how well a model remembers them.

    Args:
        corpus: from a step of `hanok data`.
        out: directory to make.
        config: how many, and how often each.
    """
    from hanok.data.canaries import add_canaries

    return _done(add_canaries(config, corpus, out), "hanok data split {out} --out SPLIT")


def parity(out: Path, config: ParityConfig = ParityConfig()) -> dict[str, Any]:
    """Write parity puzzles with long and short answers: token shards to learn from, prompts to practise on.

    Args:
        out: directory to make.
        config: size, and the share of long answers.
    """
    from hanok.data.puzzles.parity import write_parity

    return _done(write_parity(config, out), _PUZZLE_NEXT)


def ledger(out: Path, config: LedgerConfig = LedgerConfig()) -> dict[str, Any]:
    """Write ledgers to add up in order: token shards to learn from, longer prompts to practise on.

    Args:
        out: directory to make.
        config: size, and how many pages.
    """
    from hanok.data.puzzles.ledger import write_ledger

    return _done(write_ledger(config, out), _PUZZLE_NEXT)


def village_safety(
    village: Folder, out: Path, config: SafetyDataConfig = SafetyDataConfig()
) -> dict[str, Any]:
    """Write a village to tune safety in: harmful requests and look-alikes, injected instructions, disguises, and an exam.

    Args:
        village: a corpus from `hanok data village`.
        out: directory to make.
        config: how much of each.
    """
    from hanok.data.village.safety import write_safety

    return _done(
        write_safety(config, village, out),
        "hanok align dpo --model MODEL --data {out}/preferences.jsonl --nll-weight 1 --out OUT",
    )


def collect(
    paths: Annotated[tuple[str, ...], tyro.conf.Positional],
    out: Path,
    config: CollectConfig = CollectConfig(),
) -> dict[str, Any]:
    """Read files, folders, globs or "-" (standard input) into a corpus.

    Args:
        paths: what to read.
        out: directory to make.
        config: options for all of them.
    """
    import dataclasses

    from hanok.data.collect import collect as collect_documents

    sources = (*config.sources, *(SourceConfig(path=path) for path in paths))
    config = dataclasses.replace(config, sources=sources)
    return _done(collect_documents(config, out), "hanok data clean {out} --out CLEAN")


def clean(corpus: Folder, out: Path, config: CleanConfig = CleanConfig()) -> dict[str, Any]:
    """Normalise, identify languages, filter, remove duplicates, redact personal data, scan for poison.

    Args:
        corpus: a corpus from `hanok data collect`.
        out: directory to make.
        config: rules.
    """
    from hanok.data.clean import clean as clean_corpus

    return _done(clean_corpus(config, corpus, out), "hanok data split {out} --out SPLIT")


def split(corpus: Folder, out: Path, config: SplitConfig = SplitConfig()) -> dict[str, Any]:
    """Split by group into train, validation and test, and take out of train what the others contain.

    Args:
        corpus: a corpus, usually a cleaned one.
        out: directory to make.
        config: fractions and decontamination.
    """
    from hanok.data.split import split as split_corpus

    return _done(split_corpus(config, corpus, out), "hanok data tokenizer {out} --out TOKENIZER")


def tokenizer(split: Folder, out: Path, config: TokenizerConfig = TokenizerConfig()) -> dict[str, Any]:
    """Train a byte-level BPE tokeniser on the train part.

    Args:
        split: a split from `hanok data split`.
        out: directory to make.
        config: vocabulary.
    """
    from hanok.data.tokenizer import train_tokenizer

    return _done(
        train_tokenizer(config, split, out), "hanok data shards SPLIT --tokenizer {out} --out SHARDS"
    )


def shards(
    split: Folder,
    tokenizer: Path,
    out: Path,
    replay: Path | None = None,
    config: ShardsConfig = ShardsConfig(),
) -> dict[str, Any]:
    """Encode a split into memory-mapped token shards.

    Args:
        split: a split from `hanok data split`.
        tokenizer: a tokeniser directory, or a model's.
        out: directory to make.
        replay: a second split, of general text, as text-replay-train and so on.
        config: options.
    """
    from hanok.data.shards import write_shards

    return _done(
        write_shards(config, split, tokenizer, out, replay=replay), "hanok train --shards {out} --out MODEL"
    )


def _done(artefact: Any, next_command: str) -> dict[str, Any]:
    scalars = [
        (name, value) for name, value in artefact.metrics.items() if isinstance(value, (int, float, str))
    ]
    table(f"{artefact.kind} in {artefact.path}", ("measure", "value"), scalars)
    print(f"next: {next_command.format(out=artefact.path)}", file=sys.stderr)
    return {
        "path": str(artefact.path),
        "kind": artefact.kind,
        "hash": artefact.hash,
        "metrics": dict(artefact.metrics),
    }
