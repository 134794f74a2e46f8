"""`train_control`: decoding heads that follow words in the prompt (AutoDeco, arXiv 2510.26697, section 4.4).

Each prompt is read three times: as it is, with words that ask for certainty, with words that ask for invention; behind all
three stands the same answer. The mean temperature over the answer's tokens must rise in that order by a margin, the mean
top-p by half of it; the paper names a ranking loss without its formula, this hinge is ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hanok.artefacts import Artefact
from hanok.artefacts.files import sha256_file
from hanok.errors import CheckpointError, InputError
from hanok.models.checkpoint.decoding import HEADS_FILE
from hanok.models.decoder import Decoder
from hanok.models.decoding import DecodingHeads
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.batches import Rows
from hanok.training.decoding.config import ControlConfig
from hanok.training.decoding.objective import Answers, decoding_loss, read_answers
from hanok.training.decoding.run import run_on_heads
from hanok.training.loop import Surroundings, Trainer
from hanok.training.objective import Loss
from hanok.training.objectives.autodeco import control_ranking_loss
from hanok.training.packing import PackedSequence, pack
from hanok.training.plan import Plan

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Triple:
    """One prompt with its answer: asked for certainty, plain, asked for invention."""

    name: str
    sequences: tuple[PackedSequence, PackedSequence, PackedSequence]

    @property
    def num_tokens(self) -> int:
        return sum(sequence.num_tokens for sequence in self.sequences)


def train_control(config: ControlConfig, *, model: Path, prompts: Path, out: Path) -> Artefact:
    """Fine-tune the decoding heads of a model on a JSONL file of {messages}; resumes what an earlier start left in `out`.

    Raises:
        CheckpointError: the model has no heads. InputError: a row that is no conversation with an answer, or none at all.
    """
    if not (model / HEADS_FILE).is_file():
        raise CheckpointError(
            f"{model} has no decoding heads", remedy="train some first: hanok align autodeco"
        )
    triples = read_triples(config, prompts, Tokenizer.load(model))
    training = config.training()

    def make(plan: Plan, decoder: Decoder, heads: DecodingHeads, around: Surroundings) -> Trainer[Any]:
        return Trainer(
            training, plan, decoder=decoder, objective=Control(module=heads, config=config),
            batches=Rows(
                triples, per_step=config.prompts_per_step, epochs=config.epochs, seed=config.seed, name="control"
            ), surroundings=around,
        )  # fmt: skip

    settings = asdict(config) | {"prompts": sha256_file(prompts)}
    return run_on_heads(training, settings, model=model, out=out, parents={}, make=make)


@dataclass(kw_only=True, slots=True)
class Control:
    """The objective that the loop runs."""

    module: DecodingHeads
    config: ControlConfig
    _tokens: int = 0

    @property
    def heads(self) -> Mapping[str, nn.Module]:
        return {"decoding": self.module}

    def begin_step(self, decoder: Decoder, examples: Sequence[Triple]) -> int:
        """Prompts; how many tokens the anchor is a mean over is kept for the micro-batches."""
        self._tokens = max(1, sum(int(triple.sequences[1].mask.sum()) for triple in examples))
        return len(examples)

    def loss(self, decoder: Decoder, examples: Sequence[Triple], *, units: int) -> Loss:
        plain = read_answers(decoder, pack([triple.sequences[1] for triple in examples]))
        anchor = decoding_loss(
            decoder,
            self.module,
            plain,
            step_tokens=self._tokens,
            alpha=self.config.alpha,
            drop=0.0,
            weighed=False,
        )
        means = [
            _means(decoder, self.module, read_answers(decoder, pack([t.sequences[side] for t in examples])))
            for side in (0, 2)
        ]
        middle = [_of_sequences(x, plain.cu_answers) for x in (anchor.temperature_M, anchor.top_p_M)]
        rank_B = control_ranking_loss(means[0][0], middle[0], means[1][0], margin=self.config.margin)
        rank_B = rank_B + control_ranking_loss(
            means[0][1], middle[1], means[1][1], margin=self.config.margin / 2
        )
        count = float(len(examples))
        metrics = {
            "control.ranking": (float(rank_B.detach().sum()), count),
            "control.followed": (float(((means[0][0] < middle[0]) & (middle[0] < means[1][0])).sum()), count),
            **{
                f"control.temperature.{name}": (float(x.detach().sum()), count)
                for name, x in (("low", means[0][0]), ("plain", middle[0]), ("high", means[1][0]))
            },
        }
        objective = rank_B.sum() / units + self.config.anchor * anchor.objective
        return Loss(objective, objective.detach() * units, metrics)

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        return {}


def read_triples(config: ControlConfig, file: Path, tokenizer: Tokenizer) -> list[Triple]:
    """Rows with no words of the user, or too long with them, are left out and counted.

    Raises:
        InputError: the file cannot be read, a row is no conversation that ends with an answer, or nothing is left.
    """
    found, left_out = [], 0
    for number, messages in enumerate(_conversations(file)):
        wording = number % len(config.low)
        sequences = [
            _sequence(tokenizer, worded(messages, words), f"{file.name}:{number}")
            for words in (config.low[wording], "", config.high[wording])
        ]
        if any(len(s.ids) > config.max_seq_len or not s.mask.any() for s in sequences):
            left_out += 1
            continue
        found.append(Triple(f"{file.name}:{number}", (sequences[0], sequences[1], sequences[2])))
    if left_out:
        log.warning(
            "%s: %d left out, longer than max_seq_len = %d or without answer",
            file,
            left_out,
            config.max_seq_len,
        )
    if not found:
        raise InputError(f"{file}: no prompt to learn from", remedy='a row is {"messages": [..., answer]}')
    return found


def worded(messages: Sequence[Message], words: str) -> list[Message]:
    """The conversation with `words` at the end of the user's last message."""
    place = max(i for i, message in enumerate(messages) if message["role"] == "user")
    changed = dict(messages[place])
    changed["content"] = f"{changed['content']} {words}".rstrip()
    return [*messages[:place], changed, *messages[place + 1 :]]


def _sequence(tokenizer: Tokenizer, messages: Sequence[Message], name: str) -> PackedSequence:
    """The last answer's tokens count."""
    ids, learnt = tokenizer.encode_chat(messages)
    prompt, _ = tokenizer.encode_chat(messages[:-1], add_generation_prompt=True)
    opening = [] if ids[:1] == [tokenizer.bos_id] else [tokenizer.bos_id]
    tokens = np.array([*opening, *ids], dtype=np.int64)
    last = np.arange(len(ids)) >= len(prompt)
    mask = np.concatenate([np.zeros(len(opening), dtype=bool), np.array(learnt, dtype=bool) & last])[1:]
    return PackedSequence(tokens[:-1], tokens[1:], mask, name)


def _conversations(file: Path) -> Iterator[list[Message]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # `splitlines` cuts at U+2028, too
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({error})", remedy="give a JSONL file of {messages}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            messages = json.loads(line)["messages"]
            roles = [message["role"] for message in messages]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file} line {number}: no messages ({error})", remedy='a row is {"messages": [..., answer]}'
            ) from error
        if roles[-1:] != ["assistant"] or "user" not in roles:
            raise InputError(
                f"{file} line {number}: it does not end with an answer to a user",
                remedy='a row is {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}',
            )
        for message in messages:
            if not isinstance(message.get("content"), str):
                raise InputError(
                    f"{file} line {number}: the content of a message is no text",
                    remedy='write {"role", "content"}',
                )
        yield messages


def _means(decoder: Decoder, heads: DecodingHeads, answers: Answers) -> tuple[Tensor, Tensor]:
    """Mean temperature and top-p of each sequence [B], differentiable in the heads."""
    temperature_M = heads.temperature(answers.hidden_MD)
    with torch.no_grad():
        logits_MV = decoder.logits(answers.hidden_MD)
    top_p_M = heads.top_p(answers.hidden_MD, temperature_M, logits_MV)
    return _of_sequences(temperature_M, answers.cu_answers), _of_sequences(top_p_M, answers.cu_answers)


def _of_sequences(values_M: Tensor, cu_answers: Tensor) -> Tensor:
    """Their means [B]."""
    lengths_B = cu_answers.diff()
    rows_M = torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)
    return values_M.new_zeros(len(lengths_B)).index_add(0, rows_M, values_M) / lengths_B
