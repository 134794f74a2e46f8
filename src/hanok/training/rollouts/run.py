"""`hanok align grpo|rloo|ppo|dapo|gspo|cispo|drgrpo|sapo|scalerl|star`: practice against a reward, with the present weights.

Beside what every alignment stage writes: out/samples.jsonl, some groups of answers of each roll-out with their rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hanok.artefacts import Artefact
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.training.align.config import AlignConfig
from hanok.training.align.methods import POLICY_METHODS
from hanok.training.align.reward_model import ScalarHead
from hanok.training.align.stage import Prepared, Start, run_stage
from hanok.training.plan import use_threads
from hanok.training.rewards import Mix
from hanok.training.rollouts.generator import Generator
from hanok.training.rollouts.learning import Learning
from hanok.training.rollouts.policy import PolicyObjective
from hanok.training.rollouts.prompts import Prompt, read_prompts
from hanok.training.rollouts.rewards import rewards_of, sources_of
from hanok.training.rollouts.source import Rollouts, validate

VALUE_HEAD = "value_head.safetensors"


def align_on_rewards(
    method: str, config: AlignConfig, *, model: Path, prompts: Path, rewards: Sequence[str] | Mix, out: Path,
    validation: Path | None = None, rehearsal: Path | None = None,
) -> Artefact:  # fmt: skip
    """The finished model under `out/model`; for `ppo` with `value_head.safetensors` beside its weights.

    Args:
        prompts: what to practise on. rewards: names (`rewards.py` lists them), or rewards composed in Python.
        validation: prompts that are not practised on, answered greedily now and then.
        rehearsal: token shards from before, learnt along in every step.

    Raises:
        Interrupted: stopped, resumable. ConfigError, InputError, ArtefactError: what does not fit, or is damaged.
    """
    if method not in POLICY_METHODS:
        raise ConfigError(f'method = "{method}"', remedy=f"with rewards: {', '.join(POLICY_METHODS)}")
    config = config.of_method(method, rehearses=rehearsal is not None)
    if config.max_steps is None and config.max_minutes is None:
        raise ConfigError("practice has no end by itself", remedy="set max_steps or max_minutes")
    if config.group_size < 2 and method != "ppo":
        raise ConfigError(
            f"group_size = {config.group_size}", remedy=f"{method} compares answers: at least 2"
        )
    if config.clip_high is not None and method in ("ppo", "rloo"):
        raise ConfigError(
            f"clip_high = {config.clip_high}",
            remedy=f"{method} clips to both sides alike: set clip_low alone",
        )
    composed = rewards if isinstance(rewards, Mix) else rewards_of(rewards)
    files = {"prompts": prompts} | ({} if validation is None else {"validation": validation})
    to_close: list[Rollouts | Generator] = []  # in this order

    def prepare(start: Start) -> Prepared:
        name, longest = (
            ("max_new_tokens", config.max_new_tokens) if config.think == "plain" else ("chunk", config.chunk)
        )
        room = min(config.max_seq_len, start.decoder.config.max_context) - longest
        if room < 1:
            raise ConfigError(
                f"{name} = {longest} leaves no room for a prompt",
                remedy="lower it, or raise max_seq_len",
            )
        generator = Generator(model, config, threads=_threads(config, start.plan.threads)[1])
        to_close.append(generator)
        use_threads(_threads(config, start.plan.threads)[0])
        known = read_prompts(prompts, start.tokenizer, max_tokens=room)
        unknown = [] if validation is None else read_prompts(validation, start.tokenizer, max_tokens=room)
        prepared, rollouts = _prepared(method, config, start, known, unknown, composed, generator, model)
        to_close.insert(0, rollouts)
        return prepared

    settings: dict[str, object] = {
        "rewards": list(composed.parts), "weights": [weight for _, weight in composed.parts.values()],
    }  # fmt: skip
    if not isinstance(rewards, Mix) and (sources := sources_of(rewards)):
        settings["reward_sources"] = sources
    try:
        return run_stage(
            method, config, model=model, out=out, files=files, settings=settings, prepare=prepare,
            rehearsal=rehearsal,
        )  # fmt: skip
    finally:
        for one in to_close:
            one.close()


def _prepared(
    method: str, config: AlignConfig, start: Start, prompts: list[Prompt], held_out: list[Prompt], rewards: Mix,
    generator: Generator, model: Path,
) -> tuple[Prepared, Rollouts]:  # fmt: skip
    decoder, dtype = start.decoder, start.plan.dtype
    values = ScalarHead(decoder.config.hidden_size) if method == "ppo" else None
    reference = None
    if config.kl_beta and not config.lora_rank:
        reference = load_model(model, dtype="stored").requires_grad_(
            False
        )  # mapped from its files, not read in
        reference.set_compute_dtype(dtype)
    head = (
        torch.float32 if method == "scalerl" else dtype
    )  # ScaleRL: exact logits, whatever the rest computes in
    learning = Learning(method, config, decoder, dtype=head, values=values, reference=reference)

    def validation(decoder: Decoder, stopped: Callable[[], bool]) -> dict[str, float] | None:
        if stopped():
            return None
        return validate(generator, held_out, rewards, decoder) if held_out else {}

    objective = PolicyObjective(
        method=method, config=config, dtype=head, values=values, validation=validation
    )
    batches = Rollouts(
        method, config, decoder=decoder, prompts=prompts, generator=generator, rewards=rewards, learning=learning,
        samples_file=start.out / "samples.jsonl",
    )  # fmt: skip
    prepared = Prepared(
        objective=objective,
        batches=batches,
        save_heads=lambda path: values.save(path / VALUE_HEAD) if values is not None else None,
    )
    return prepared, batches


def _threads(config: AlignConfig, threads: int) -> tuple[int, int]:
    """Of the learner and of the generator: all of them in turn, or a share each where they work at the same time."""
    if not config.overlap:
        return threads, threads
    generator = config.generator_threads or max(1, threads // 2)
    return max(1, threads - generator), generator
