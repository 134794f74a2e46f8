"""The sources of guesses of one engine, from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hanok.engine.blocks import BLOCK
from hanok.engine.coverage import block_bytes, why_not_native
from hanok.engine.images import images_of
from hanok.engine.native import NativeDecoder
from hanok.engine.speculation.draft import DraftModel
from hanok.engine.speculation.lookup import PromptLookup
from hanok.engine.speculation.pace import Pace
from hanok.engine.speculation.speculator import Speculator
from hanok.errors import ConfigError
from hanok.kernels.memory import give_back
from hanok.models.checkpoint import load_config, load_model
from hanok.models.coded import stored_parts
from hanok.tokens.tokenizer import Tokenizer

Speculation = Literal["auto", "off", "lookup"]
GUESSED = 8  # answers at once that a draft model, or a recurrent model, has second places for
DRAFT_BYTES = 512 << 20  # of the draft model's own cache, at most


def check_speculation(speculation: Speculation, draft_dir: Path | None, *, native: bool) -> None:
    """Raises ConfigError: settings that contradict each other, or a model that the kernels do not run."""
    if speculation not in ("auto", "off", "lookup"):
        raise ConfigError(f'speculation = "{speculation}"', remedy="it must be auto, off or lookup")
    if draft_dir is not None and speculation != "auto":
        raise ConfigError(
            f'speculation = "{speculation}" with a draft model', remedy="leave one of them away"
        )
    if not native and (draft_dir is not None or speculation == "lookup"):
        raise ConfigError(
            "speculation runs on the native kernels, and this model is run by PyTorch",
            remedy="choose weights of bf16, int8 or int4, or speculation = off",
        )


def new_speculator(
    target: NativeDecoder, tokenizer: Tokenizer, speculation: Speculation, draft_dir: Path | None, *, threads: int
) -> Speculator | None:  # fmt: skip
    """What `check_speculation` let through.

    Raises:
        ConfigError: a draft model with another tokeniser, or one that the kernels do not run.
    """
    if speculation == "off":
        return None
    draft = None if draft_dir is None else _draft_model(draft_dir, target, tokenizer, threads)
    return Speculator(lookup=PromptLookup(), draft=draft, pace=Pace(recurrent=target.recurrent))


def _draft_model(directory: Path, target: NativeDecoder, tokenizer: Tokenizer, threads: int) -> DraftModel:
    if Tokenizer.load(directory).hash != tokenizer.hash:
        raise ConfigError(
            f"the draft model {directory} has another tokeniser",
            remedy="take one that was trained with the tokeniser of the model it guesses for",
        )
    config = load_config(directory)
    why = why_not_native(config)
    if why is not None:
        raise ConfigError(f"the draft model {directory} does not run natively: {why}", remedy="take another")
    blocks = -(-config.max_context // BLOCK) * GUESSED
    if block_bytes(config):
        blocks = max(1, min(blocks, DRAFT_BYTES // block_bytes(config)))
    decoder = load_model(directory, dtype="stored").requires_grad_(False)
    model = NativeDecoder(
        decoder, kind=target.kind, blocks=blocks, threads=threads, slots=GUESSED, spares=GUESSED,
        images=images_of(directory, target.kind),
    )  # fmt: skip
    give_back(stored_parts(decoder))
    return DraftModel(
        model, vocabulary=min(tokenizer.vocab_size, config.vocab_size, target.config.vocab_size)
    )
