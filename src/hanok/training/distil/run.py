"""`hanok align distill offline|logits|on-policy|minillm`: a teacher's model directory into a smaller one.

Beside what every alignment stage writes:
out/student/         the model to start from, where none was given
out/samples/         the teacher's answers as token shards: a later run takes them by --samples
out/logits/          the teacher's law on what is learnt from: a later run takes them by --logits
out/samples.jsonl    on-policy, minillm: some of the student's own answers of each step
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, open_artefact, sha256_file, sole_user
from hanok.artefacts.shards import Shards, open_shards
from hanok.errors import ConfigError, InputError
from hanok.models.config import ModelConfig
from hanok.reporting import Report
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.batches import Rows
from hanok.training.align.stage import Prepared, Start, run_stage
from hanok.training.config import TrainConfig
from hanok.training.distil.config import DistilConfig, Shrink, check
from hanok.training.distil.logits import Law, StoredLogits, write_logits
from hanok.training.distil.objective import Divergent, MiniLLM, live_teacher, stored_law
from hanok.training.distil.student import make_student
from hanok.training.distil.teacher import Teacher, require_one_vocabulary
from hanok.training.objectives.next_token import NextToken
from hanok.training.rollouts.asking import Asks, ShardPrompts
from hanok.training.rollouts.generator import Generator
from hanok.training.rollouts.kept import KeptRows
from hanok.training.rollouts.own_answers import OwnAnswers
from hanok.training.rollouts.prompts import read_prompts
from hanok.training.rollouts.teacher_samples import SPLIT, write_teacher_samples
from hanok.training.sampler import Sampler
from hanok.training.validation import Validation, choose_held_out

_SAMPLED_BY = (
    "seed", "max_seq_len", "text_prompt_tokens", "group_size", "max_new_tokens", "sampling_temperature", "generator",
    "answers",
)  # fmt: skip
_ON_THE_PAGE = 8


def distil(
    method: str, config: DistilConfig, *, teacher: Path, shards: Path, out: Path, student: Path | None = None,
    shape: ModelConfig | None = None, shrink: Shrink = Shrink(), prompts: Path | None = None, samples: Path | None = None,
    logits: Path | None = None,
) -> Artefact:  # fmt: skip
    """The finished student under `out/model`.

    Args:
        shards: the corpus: learnt from, or cut into prompts; its validation splits are what is validated on.
        student: a model directory to start from; or `shape`: of a new one; or neither: `shrink` makes one of the teacher's.
        prompts: JSONL rows {id, prompt} in place of prompts cut from the shards.
        samples: the teacher's answers of an earlier run. logits: the teacher's law of an earlier run.

    Raises:
        Interrupted: stopped, resumable. ConfigError, InputError, ArtefactError: what does not fit, or is damaged.
    """
    check(method, config)
    if student is not None and shape is not None:
        raise ConfigError("both a student and a shape of a new one", remedy="give one of them")
    if logits is not None and method != "logits":
        raise ConfigError(f"{method} reads no logits from disk", remedy="leave out --logits")
    if samples is not None and not reads_samples(method, config):
        raise ConfigError(
            f"{method} as it is set reads no samples of the teacher", remedy="leave out --samples"
        )
    asks = method in ("on-policy", "minillm") or (samples is None and reads_samples(method, config))
    if prompts is not None and not asks:
        raise ConfigError(f"{method} as it is set reads no prompts", remedy="leave out --prompts")
    more = {"teacher": open_artefact(teacher), "shards": open_artefact(shards, kind="shards")}
    if samples is not None:
        more["samples"] = open_artefact(samples, kind="shards")
    if logits is not None:
        more["logits"] = open_artefact(logits, kind="logits")
    opened = open_shards(shards, verify=False)
    opened.require_tokenizer(Tokenizer.load(teacher).hash)
    if student is None:
        out.mkdir(parents=True, exist_ok=True)
        with sole_user(out, "training"):
            student = make_student(
                out / "student", teacher=teacher, shape=shape, shrink=shrink, seed=config.seed
            ).path
    require_one_vocabulary(teacher, student)
    with ExitStack() as stack:

        def prepare(start: Start) -> Prepared:
            run = _Run(method, config, start, stack, teacher, opened, prompts, samples, logits)
            return run.prepared(student)

        return run_stage(
            f"distill-{method}", config, model=student, out=out, files={} if prompts is None else {"prompts": prompts},
            settings={}, prepare=prepare, more=more,
        )  # fmt: skip


def reads_samples(method: str, config: DistilConfig) -> bool:
    """Whether the teacher's answers are learnt from."""
    if method == "offline":
        return True
    given = method == "logits" or (method == "on-policy" and config.on_policy < 1)
    return given and config.learn_from == "samples"


@dataclass(frozen=True, slots=True)
class _Run:
    """What a method is prepared from."""

    method: str
    config: DistilConfig
    start: Start
    stack: ExitStack
    teacher: Path
    shards: Shards
    prompts: Path | None
    samples: Path | None
    logits: Path | None

    def prepared(self, student: Path) -> Prepared:
        dtype = self.start.plan.dtype
        if self.method == "offline":
            _, training, splits = self._given("samples")
            objective = NextToken(dtype=dtype, mtp_weight=0.0, validation=self._validation())
            return Prepared(objective=objective, batches=Sampler(training, splits.splits))
        teacher = Teacher.load(self.teacher, dtype=dtype)
        if self.method == "logits":
            corpus, training, splits = self._given(self.config.learn_from)
            stored = self._stored(teacher, corpus, training, splits)
            divergence = stored_law(stored, temperature=self.config.temperature)
            objective = Divergent(divergence=divergence, validation=self._validation())
            return Prepared(objective=objective, batches=Sampler(training, splits.splits))
        if self.method == "minillm":
            objective = MiniLLM(
                teacher=teacher, clip=self.config.clip, corpus_weight=self.config.corpus_weight, dtype=dtype,
                validation=self._validation(),
            )  # fmt: skip
            return self._on_policy(objective, student)
        divergence = live_teacher(teacher, beta=self.config.beta, temperature=self.config.temperature)
        return self._on_policy(Divergent(divergence=divergence, validation=self._validation()), student)

    def _on_policy(self, objective: Divergent | MiniLLM, student: Path) -> Prepared:
        config, training = self.config, self.config.training()
        kept = KeptRows(self.start.out / "samples.jsonl", by="step", each=config.samples_kept)
        given = beside = None
        share = config.on_policy if self.method == "on-policy" else 1.0
        if share < 1.0:
            _, learning, splits = self._given(config.learn_from)
            given = Sampler(learning, splits.splits)
        if self.method == "minillm" and config.corpus_weight:
            beside = Sampler(training, self.shards.splits)
        batches = OwnAnswers(
            self.start.decoder, self._generator(student), self._asks(), self.start.tokenizer, share=share, given=given,
            beside=beside, kept=kept,
        )  # fmt: skip
        return Prepared(
            objective=objective, batches=batches, add_to_page=lambda page: _add_answers(page, kept)
        )

    def _given(self, kind: str) -> tuple[Artefact, TrainConfig, Shards]:
        """What is learnt from beside the student's own answers: its artefact, how it is drawn, and its splits."""
        training = self.config.training()
        if kind == "corpus":
            return self.start.parents["shards"], training, self.shards
        artefact = self.start.parents.get("samples") or self._make_samples()
        opened = open_shards(artefact.path, verify=False)
        opened.require_tokenizer(self.start.tokenizer.hash)
        if SPLIT not in opened.splits:
            raise InputError(
                f'{artefact.path} has no split "{SPLIT}"', remedy="give samples that a teacher wrote"
            )
        return artefact, dataclasses.replace(training, mixture={SPLIT: 1.0}), opened

    def _make_samples(self) -> Artefact:
        path, config = self.start.out / "samples", self.config
        parents = {role: self.start.parents[role] for role in ("teacher", "shards")}
        step: dict[str, Any] = {name: getattr(config, name) for name in _SAMPLED_BY}
        step["prompts"] = {**config.mixture} if self.prompts is None else sha256_file(self.prompts)
        if path.exists():
            return open_artefact(path, kind="shards")  # of this run: its settings are the plan's
        return write_teacher_samples(
            path, self._generator(self.teacher), self._asks(), self.start.tokenizer, count=config.answers,
            group_size=config.group_size, parents=parents, step=step,
        )  # fmt: skip

    def _stored(
        self, teacher: Teacher, corpus: Artefact, training: TrainConfig, splits: Shards
    ) -> StoredLogits:
        config, parent = self.config, self.start.parents["teacher"]
        law = Law(top_k=config.top_k, temperature=config.temperature, max_seq_len=config.max_seq_len)
        names = list(training.mixture)
        Sampler(training, splits.splits)  # a split that is not there is an error before hours of work
        path = self.logits or self.start.out / "logits"
        if not path.exists():
            write_logits(
                path, teacher, parent=parent, corpus=corpus, shards=splits, splits=names, law=law,
                max_tokens=config.micro_batch_tokens,
            )  # fmt: skip
        return StoredLogits(path, teacher=parent, corpus=corpus, shards=splits, law=law, splits=names)

    def _generator(self, model: Path) -> Generator:
        generator = Generator(model, self.config.drawing(), threads=self.start.plan.threads)
        self.stack.callback(generator.close)
        return generator

    def _asks(self) -> Asks:
        config, training = self.config, self.config.training()
        room = min(config.max_seq_len, self.start.decoder.config.max_context) - config.max_new_tokens
        if room < 1:
            raise ConfigError(
                f"max_new_tokens = {config.max_new_tokens} leaves no room for a prompt", remedy="lower it"
            )
        if self.prompts is not None:
            rows = read_prompts(self.prompts, self.start.tokenizer, max_tokens=room)
            return Rows(rows, per_step=config.prompts_per_step, epochs=None, seed=config.seed, name="prompts")
        sampler = Sampler(training, self.shards.splits)
        return ShardPrompts(sampler, text_tokens=config.text_prompt_tokens, room=room)

    def _validation(self) -> Validation:
        training = self.config.training()
        return Validation(
            choose_held_out(training, self.shards.splits),
            special_ids=list(self.start.tokenizer.special.values()),
            max_tokens=self.config.micro_batch_tokens,
        )


def _add_answers(page: Report, kept: KeptRows) -> None:
    rows = kept.rows()
    chosen = (
        [rows[i * len(rows) // _ON_THE_PAGE] for i in range(_ON_THE_PAGE)]
        if len(rows) > _ON_THE_PAGE
        else rows
    )
    page.add_examples(
        "Answers of the student on its way",
        [(f"step {row['step']}: {row['prompt']}", row["answer"]) for row in chosen],
    )
