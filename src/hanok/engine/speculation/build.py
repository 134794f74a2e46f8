"""The sources of guesses of one engine, from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from hanok.engine.blocks import BLOCK
from hanok.engine.coverage import block_bytes, why_not_native
from hanok.engine.images import images_of
from hanok.engine.native import NativeDecoder
from hanok.engine.speculation.draft import DraftModel
from hanok.engine.speculation.lookup import PromptLookup
from hanok.engine.speculation.own import OwnHeads
from hanok.engine.speculation.pace import Pace
from hanok.engine.speculation.speculator import Speculator
from hanok.errors import ConfigError
from hanok.kernels.memory import give_back
from hanok.models.checkpoint import load_config, load_model
from hanok.models.coded import stored_parts
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer

Speculation = Literal["auto", "off", "lookup", "own"]
GUESSED = 8  # answers at once that a draft model, or a recurrent model, has second places for
DRAFT_BYTES = 512 << 20  # of the draft model's own cache, at most


def check_speculation(
    speculation: Speculation, draft_dir: Path | None, config: ModelConfig, *, native: bool
) -> None:
    """Raises ConfigError: settings that contradict each other or the model, or a model that the kernels do not run."""
    if speculation not in get_args(Speculation):
        raise ConfigError(f'speculation = "{speculation}"', remedy="it must be auto, off, lookup or own")
    if draft_dir is not None and speculation != "auto":
        raise ConfigError(
            f'speculation = "{speculation}" with a draft model', remedy="leave one of them away"
        )
    if speculation == "own" and not config.mtp_layers:
        raise ConfigError(
            'speculation = "own", and this model has no heads for later tokens',
            remedy="train it with [model] mtp_layers = 1, or choose auto",
        )
    if not native and (draft_dir is not None or speculation in ("lookup", "own")):
        raise ConfigError(
            "speculation runs on the native kernels, and this model is run by PyTorch",
            remedy="choose weights of bf16, int8 or int4, or speculation = off",
        )


def new_speculator(
    target: NativeDecoder, decoder: Decoder, tokenizer: Tokenizer, speculation: Speculation, draft_dir: Path | None, *,
    threads: int, keep_images: bool = True,
) -> Speculator | None:  # fmt: skip
    """What `check_speculation` let through.

    Args:
        decoder: that `target` was made from.
        keep_images: of a draft model's packed weights.

    Raises:
        ConfigError: a draft model with another tokeniser, or one that the kernels do not run.
    """
    if speculation == "off":
        return None
    lookup = None if speculation == "own" else PromptLookup()
    draft = None
    if draft_dir is not None:
        draft = _draft_model(draft_dir, target, tokenizer, threads, keep_images=keep_images)
    elif speculation != "lookup" and len(decoder.mtp):
        vocabulary = min(tokenizer.vocab_size, target.config.vocab_size)
        draft = OwnHeads(decoder, target, vocabulary=vocabulary, texts=GUESSED, threads=threads)
    return Speculator(lookup=lookup, draft=draft, pace=Pace(recurrent=target.recurrent))


def _draft_model(
    directory: Path, target: NativeDecoder, tokenizer: Tokenizer, threads: int, *, keep_images: bool
) -> DraftModel:
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
        images=images_of(directory, target.kind) if keep_images else None,
    )  # fmt: skip
    give_back(stored_parts(decoder))
    return DraftModel(
        model, vocabulary=min(tokenizer.vocab_size, config.vocab_size, target.config.vocab_size)
    )
