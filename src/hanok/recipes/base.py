"""A model to start from, its tokeniser made to fit the documents, and what training on them changed.

The new model directory has the base's weights, a longer tokeniser where that pays, and rows for the new tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.data.config_tokens import ExtendConfig
from hanok.data.extend import Extension, extend_tokenizer
from hanok.models.checkpoint import load_model, save_model
from hanok.models.extend import extend_model
from hanok.recipes.align import measured_before
from hanok.reporting import Report, log
from hanok.tokens import Tokenizer

FIT = ("language", "before", "after", "gain")
_MEASURES = {
    "bits_per_byte.text": "the documents, held out",
    "bits_per_byte.chat": "dialogues, held out",
    "bits_per_byte.text-replay": "general text, held out",
    "bits_per_byte.chat-replay": "general dialogues, held out",
}


def prepare_base(
    model: Path, split: Path, out: Path, *, extend: ExtendConfig | None, least_gain: float = 1.0
) -> Artefact:
    """Kind "model".

    Args:
        split: what the tokeniser is to fit: learnt from its train part, measured on its validation part.
        extend: None leaves the tokeniser as it is.
        least_gain: characters a token, after over before, from which the longer tokeniser is taken.

    Raises:
        CheckpointError, ArtefactError: a damaged model or tokeniser. InputError: a split without text.
    """
    parents = {"model": open_artefact(model), "split": open_artefact(split, kind="split")}
    step = {"extend": extend and dataclasses.asdict(extend), "least_gain": least_gain}
    old = Tokenizer.load(model)
    extension = extend_tokenizer(extend, model, split) if extend is not None else None
    verdict = _verdict(extension, least_gain)
    log.info("%s", verdict)
    decoder, tokenizer = load_model(model, dtype="stored"), old
    new_tokens = 0
    if extension is not None and _pays(extension, least_gain):
        decoder = extend_model(decoder, extension.pieces, first=old.vocab_size)
        tokenizer, new_tokens = Tokenizer(extension.files), len(extension.pieces)
    with create_artefact(out, kind="model", parents=parents, step=step) as draft:
        save_model(decoder, draft.path)
        tokenizer.save(draft.path)
        draft.metrics["new_tokens"] = new_tokens
        if extension is not None:
            draft.metrics |= {f"characters_per_token.{name}": fit for name, (_, fit) in extension.fit.items()}
        report = Report("The model to start from")
        report.add_text("Tokeniser", verdict)
        if extension is not None:
            report.add_table("Characters a token of the documents", FIT, fit_rows(extension))
        report.write(draft.path)
    return open_artefact(out, kind="model")


def fit_rows(extension: Extension) -> list[tuple[str, float, float, float]]:
    """Language, characters a token before and after, gain."""
    return [(lang, before, after, after / before) for lang, (before, after) in extension.fit.items()]


def changes(done: Mapping[str, Artefact]) -> list[tuple[str, float, float, float]]:
    """What training changed in bits per byte: measure, before, after, relative change (more is worse)."""
    pair = measured_before(done)
    if pair is None:
        return []
    before, after = (artefact.metrics for artefact in pair)
    return [
        (title, before[key], after[key], after[key] / before[key] - 1)
        for key, title in _MEASURES.items()
        if key in before and key in after
    ]


def forgetting(done: Mapping[str, Artefact]) -> dict[str, Any]:
    """{"forgetting": relative rise of bits per byte on general text}, or nothing where it was not measured."""
    found = {title: change for title, _, _, change in changes(done)}
    general = found.get(_MEASURES["bits_per_byte.text-replay"])
    return {} if general is None else {"forgetting": general}


def _pays(extension: Extension, least_gain: float) -> bool:
    before, after = extension.fit["all"]
    return bool(extension.pieces) and after / before >= least_gain


def _verdict(extension: Extension | None, least_gain: float) -> str:
    if extension is None:
        return "the tokeniser stays as it is"
    before, after = extension.fit["all"]
    found = f"{len(extension.pieces)} new tokens: {before:.2f} -> {after:.2f} characters a token"
    if _pays(extension, least_gain):
        return found
    return f"{found}, less than {least_gain:g} times; the tokeniser stays as it is"
