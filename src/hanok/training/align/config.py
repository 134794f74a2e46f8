"""What an alignment run is told. Cheap to import: no torch here.

One dataclass for all methods; what a method does not read must stay at its default (`methods.py` says which read what).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from hanok.errors import ConfigError
from hanok.training.align.methods import CHUNKED, check_read
from hanok.training.config import TrainConfig

BETAS = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0, "cpo": 0.1}
PER_TOKEN_BETA = 5.0  # Tulu 3, arXiv 2411.15124
CLIPS = {"gspo": (3e-4, 4e-4), "dapo": (0.2, 0.28)}
_OF_CHUNKS = ("chunk", "carry", "chunks", "carry_head")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig:
    """One run of `hanok align`. `pairs_per_step` to `held_out` are for preferences, `prompts_per_step` and on for RL."""

    max_steps: int | None = None
    """End after so many updates. Default: preferences, `epochs`; RL has no other end than this or `max_minutes`."""
    max_minutes: float | None = None
    """End after so much wall-clock time, validation and checkpoints included."""
    epochs: float = 1.0
    """Times that the preferences are read, if neither steps nor minutes end the run sooner."""
    seed: int = 0
    """Of the order of rows, of sampled answers, of fresh heads and adapters."""

    muon_lr: float = 3e-4
    """For matrices, in AdamW's scale."""
    adamw_lr: float = 1e-4
    """For embeddings, norms and other vectors."""
    warmup_steps: int = 5
    """Over which learning rates rise from 0."""
    decay_fraction: float | None = None
    """Part of the run over which learning rates fall. Default: 0.5; scalerl and star 0."""
    final_lr: float = 0.1
    """Share of the learning rates that is left at the end."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient; 0 switches clipping off."""
    weight_decay: float = 0.0
    """Of matrices and the head; embeddings, norms and other vectors have none."""
    lora_rank: int = 0
    """Tune low-rank adapters of this rank; the reference is then the model with them switched off."""
    lora_alpha: float = 0.0
    """Strength of the adapters; 0: twice the rank."""
    lora_targets: tuple[str, ...] = ()
    """Last parts of the names of the maps to adapt, for example q_proj; empty: every map in the layers."""
    lora_dora: bool = False
    """Weight-decomposed adapters (DoRA): the length of each row of the weights is learnt by itself."""
    blend: float = 1.0
    """The result lies so far on the way from the starting weights to the trained ones (arXiv 2309.06256): at less than 1 what was
    learnt is weaker, and much less is forgotten."""
    precision: Literal["auto", "bfloat16", "float32"] = "float32"
    """Of products in the learner."""
    threads: int = 0
    """0: as many as torch takes by itself."""
    max_seq_len: int = 1024
    """Prompt and answer together; longer rows are left out and counted."""
    micro_batch_tokens: int = 8192
    """Tokens in memory at once; a step of more is accumulated."""
    validate_every: int = 0
    """Steps; 0: four times a run."""
    checkpoint_every: int = 0
    """Steps; 0: ten times a run."""
    keep_checkpoints: int = 2
    """The last so many stay on disk."""

    rehearsal_tokens: int = 2048
    """A step, of the shards that are rehearsed."""
    rehearsal_weight: float = 1.0
    """Of their next-token loss, beside the method's own."""
    rehearsal_chats: float = 0.75
    """Share of their tokens that is of chats, whose answers are learnt; the rest is of documents."""

    pairs_per_step: int = 32
    """Preferences whose mean loss makes one update."""
    beta: float | None = None
    """Strength of the preference; default: 0.1, SimPO 2.0, DPO per token 5.0."""
    dpo_loss: Literal["plain", "robust", "per-token", "hinge"] = "plain"
    """dpo: robust is unbiased where `label_smoothing` of the labels are flipped; per-token compares log-ratios a token, so that
    length is no argument; hinge wants nothing beyond its margin."""
    gamma: float = 0.5
    """simpo: margin in reward units."""
    label_smoothing: float = 0.0
    """Share of labels believed to be flipped (dpo, simpo, cpo)."""
    nll_weight: float | None = None
    """Of the chosen answer's own negative log-likelihood a token. Default: cpo 1, dpo and ipo 0."""
    centre: float = 0.01
    """reward: weight of (r_chosen + r_rejected)^2, which keeps scores around 0."""
    likelihood: bool = False
    """reward: the score also reads how likely the answer is to the model itself, which knows facts."""
    held_out: float = 0.05
    """Share of the preferences kept for validation, where no validation file is given."""

    prompts_per_step: int = 16
    """Prompts of one roll-out."""
    group_size: int = 8
    """Answers to each prompt."""
    overlap: int = 0
    """Roll-outs that the generator writes ahead while the learner learns (PipelineRL); 0: in turn, which alone is reproducible
    bit for bit."""
    generator_threads: int = 0
    """Of the run's threads, those that the generator has where the two overlap; the learner has the others. 0: half."""
    updates_per_rollout: int = 1
    """Updates from the answers of one roll-out: they are split into so many steps."""
    max_new_tokens: int = 128
    """Of an answer; what is longer is cut, and judged as it is."""
    temperature: float = 1.0
    """Of the law that answers are drawn from."""
    clip_low: float | None = None
    """How far a ratio may fall below 1 before the clip holds it. Default: 0.2; gspo 3e-4."""
    clip_high: float | None = None
    """And rise above 1. Default: 0.2; dapo 0.28; gspo 4e-4. Not for ppo and rloo, which clip to both sides by `clip_low`."""
    ratio_cap: float = 5.0
    """cispo, scalerl: bound of the ratio itself."""
    pass_reward: float = 1.0
    """star, scalerl: reward from which an answer counts as right: star learns those alone, scalerl retires prompts by them."""
    retire: float = 0.9
    """scalerl: a prompt of which this share of all answers so far was right is not drawn again."""
    kl_beta: float = 0.0
    """Weight of the divergence from the starting model: in the reward for ppo and rloo, in the loss for the others."""
    kl_target: float | None = None
    """ppo, rloo: kl_beta is where the weight begins; it then rises while an answer's divergence is above so many nats, and falls
    while it is below."""
    kl_horizon: float = 10_000
    """kl_target: answers in which the weight changes by at most a fifth."""
    importance_cap: float = 2.0
    """Bound of trainer over generator probability; 0 switches the correction off."""
    importance: Literal["token", "answer"] = "token"
    """Tokens weigh min(ratio, cap) each; or all of an answer the ratio of the whole, and nothing above the cap."""
    off_policy_nats: float | None = None
    """Answers with a negative advantage from which the policy has moved away by more nats a token are left out."""
    entropy_bonus: float = 0.0
    """Weight of the entropy of the policy's law, which holds off collapse."""
    overlong_cache: int = 0
    """DAPO: answers longer than max_new_tokens - this lose up to 1; 0 switches it off."""
    dynamic_sampling: int = 3
    """DAPO: times at most that prompts whose answers were all alike are replaced by others."""
    gae_lambda: float = 0.95
    """ppo: share of the advantage that comes from further behind in the answer; 1 trusts the reward alone."""
    value_weight: float = 0.1
    """ppo: of the value head's loss."""
    validation_answers: int = 0
    """Sampled answers to each prompt of the validation, whose mean counts; 0: one, the likeliest."""
    think: Literal["plain", "delethink"] = "plain"
    """delethink: answers are written in chunks, and each chunk is learnt from what it was written from."""
    chunk: int = 8192
    """delethink: tokens held beside the prompt; takes the place of max_new_tokens."""
    carry: int | None = None
    """delethink: of them kept for the next chunk. Default: half."""
    chunks: int = 5
    """delethink: at most."""
    carry_head: int | None = None
    """delethink: the part of the carry that is the answer's beginning. Default: a quarter of it, 100 at most."""
    generator: Literal["float32", "bf16"] = "float32"
    """Weights that the generator runs with; float32 keeps it closest to the trainer."""
    samples_kept: int = 4
    """Groups of each step written to samples.jsonl."""

    def __post_init__(self) -> None:
        positive = (
            "epochs", "pairs_per_step", "prompts_per_step", "group_size", "updates_per_rollout", "max_new_tokens",
            "temperature", "max_seq_len", "micro_batch_tokens", "keep_checkpoints", "rehearsal_tokens", "rehearsal_weight",
        )  # fmt: skip
        for name in positive:
            _require(getattr(self, name) > 0, f"{name} = {getattr(self, name)}", "it must be more than 0")
        for name in (
            "beta",
            "max_steps",
            "max_minutes",
            "clip_low",
            "clip_high",
            "kl_target",
            "kl_horizon",
            "off_policy_nats",
        ):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} = {value}", "it must be more than 0")
        for name in (
            "kl_beta",
            "importance_cap",
            "entropy_bonus",
            "overlong_cache",
            "dynamic_sampling",
            "samples_kept",
            "centre",
            "validation_answers",
            "overlap",
            "generator_threads",
        ):
            _require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)}", "it must not be negative")
        _require(
            0 <= self.label_smoothing < 0.5,
            f"label_smoothing = {self.label_smoothing}",
            "it must lie in [0, 0.5)",
        )
        _require(0 < self.blend <= 1, f"blend = {self.blend}", "it must lie in (0, 1]")
        _require(
            self.blend == 1 or not self.lora_rank,
            f"blend = {self.blend} of adapters",
            "an adapter's strength is lora_alpha: lower that",
        )
        _require(
            0 <= self.rehearsal_chats <= 1,
            f"rehearsal_chats = {self.rehearsal_chats}",
            "it must lie in [0, 1]",
        )
        _require(0 <= self.held_out < 1, f"held_out = {self.held_out}", "it must lie in [0, 1)")
        _require(0 < self.retire <= 1, f"retire = {self.retire}", "it must lie in (0, 1]")
        _require(0 < self.gae_lambda <= 1, f"gae_lambda = {self.gae_lambda}", "it must lie in (0, 1]")
        _require(
            self.max_seq_len <= self.micro_batch_tokens,
            f"max_seq_len = {self.max_seq_len}, micro_batch_tokens = {self.micro_batch_tokens}",
            "a row must fit into a micro-batch",
        )
        _require(
            self.prompts_per_step % self.updates_per_rollout == 0,
            f"prompts_per_step = {self.prompts_per_step}, updates_per_rollout = {self.updates_per_rollout}",
            "the first must be a multiple of the second",
        )
        self.training()

    def training(self) -> TrainConfig:
        """What the loop needs to know."""
        same = (
            "max_steps", "max_minutes", "seed", "muon_lr", "adamw_lr", "warmup_steps", "final_lr", "grad_clip",
            "weight_decay", "lora_rank", "lora_alpha", "lora_targets", "lora_dora", "precision", "threads", "max_seq_len",
            "micro_batch_tokens", "validate_every", "checkpoint_every", "keep_checkpoints",
        )  # fmt: skip
        values: dict[str, Any] = {name: getattr(self, name) for name in same}
        return TrainConfig(
            **values,
            decay_fraction=0.5 if self.decay_fraction is None else self.decay_fraction,
            tokens_per_step=self.micro_batch_tokens,
            spike_ratio=0.0,
            mixture={"aligned": 1.0},
            device="cpu",  # the engine of roll-outs runs there, and so do the stored log-probabilities of references
        )

    def of_method(self, method: str, *, rehearses: bool = False) -> AlignConfig:
        """With what this method is made of where nothing else was asked for.

        Args:
            rehearses: whether there are shards to rehearse.

        Raises:
            ConfigError: settings that the method does not read, or that do not go together.
        """
        check_read(method, self._changed())
        idle = [] if rehearses else [name for name in self._changed() if name.startswith("rehearsal_")]
        _require(
            not idle,
            f"{' and '.join(idle)} without rehearsal",
            "give the shards to rehearse, or leave them out",
        )
        if self.think == "delethink":
            _require(
                method in CHUNKED, f"{method} with think = delethink", f"use one of {', '.join(CHUNKED)}"
            )
        else:
            given = [name for name in self._changed() if name in _OF_CHUNKS]
            _require(
                not given,
                f"{' and '.join(given)} with think = plain",
                "add --think delethink, or leave them out",
            )
        _require(
            self.overlap > 0 or not self.generator_threads,
            f"generator_threads = {self.generator_threads} without overlap",
            "in turn, both sides have all threads: leave it out, or set overlap",
        )
        if self.overlap:
            self._check_overlap(method)
        if self.kl_target is not None:
            _require(
                method in ("ppo", "rloo") and self.kl_beta > 0,
                f"kl_target = {self.kl_target} of {method} with kl_beta = {self.kl_beta}",
                "it moves the weight in the reward of ppo and rloo, from a kl_beta above 0",
            )
        _require(
            self.dpo_loss != "robust" or self.label_smoothing > 0,
            "dpo_loss = robust with label_smoothing = 0", "say what share of the labels may be flipped",
        )  # fmt: skip
        _require(
            self.dpo_loss != "hinge" or self.label_smoothing == 0,
            f"dpo_loss = hinge with label_smoothing = {self.label_smoothing}", "leave one of them out",
        )  # fmt: skip
        if method == "scalerl":
            _require(
                self.generator == "float32", f"scalerl with generator = {self.generator}",
                "its logits are exact on both sides: leave it at float32",
            )  # fmt: skip
        constant = method in ("scalerl", "star") and self.decay_fraction is None
        return replace(self, decay_fraction=0.0) if constant else self

    def _changed(self) -> list[str]:
        """Settings that are not what they are by default."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]

    def _check_overlap(self, method: str) -> None:
        _require(
            method != "dapo" or not self.dynamic_sampling, f"overlap = {self.overlap} of dapo with dynamic_sampling",
            "which prompts are replaced depends on answers that are not there yet: set dynamic_sampling to 0, or overlap to 0",
        )  # fmt: skip
        corrected = self.importance_cap > 0 and self.temperature == 1.0
        _require(
            corrected or method == "star",
            f"overlap = {self.overlap} with importance_cap = {self.importance_cap}, temperature = {self.temperature}",
            "answers by older weights are corrected by importance: keep the cap above 0 and the temperature at 1",
        )

    def beta_of(self, method: str) -> float:
        usual = PER_TOKEN_BETA if self.dpo_loss == "per-token" else BETAS[method]
        return self.beta if self.beta is not None else usual

    def clips_of(self, method: str) -> tuple[float, float]:
        low, high = CLIPS.get(method, (0.2, 0.2))
        return self.clip_low or low, self.clip_high or high


def _require(condition: bool, message: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(message, remedy=remedy)
