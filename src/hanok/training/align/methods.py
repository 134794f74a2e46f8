"""The methods of `hanok align`, and which of them read a setting: what a method does not read is refused, not passed over.

A setting that is not named in `READERS` is read by all: budget, optimiser, adapters, memory. Cheap to import: no torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from hanok.errors import ConfigError

PairMethod = Literal["dpo", "ipo", "kto", "orpo", "simpo", "cpo", "reward"]
PolicyMethod = Literal["grpo", "rloo", "ppo", "dapo", "gspo", "cispo", "drgrpo", "sapo", "scalerl", "star"]
Method = Literal[PairMethod, PolicyMethod]
PAIR_METHODS: tuple[str, ...] = get_args(PairMethod)
POLICY_METHODS: tuple[str, ...] = get_args(PolicyMethod)
CHUNKED = ("grpo", "drgrpo", "dapo", "cispo", "scalerl", "star")
"""Whose losses do not need an answer in one piece."""

_WITH_RATIOS = tuple(
    method for method in POLICY_METHODS if method != "star"
)  # it learns right answers as text
_CLIPPED = ("grpo", "drgrpo", "dapo", "gspo", "ppo", "rloo")

READERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("epochs", "pairs_per_step", "held_out"), PAIR_METHODS),
    "beta": tuple(method for method in PAIR_METHODS if method != "reward"),
    "dpo_loss": ("dpo",),
    "gamma": ("simpo",),
    "label_smoothing": ("dpo", "simpo", "cpo"),
    "nll_weight": ("dpo", "ipo", "cpo"),
    **dict.fromkeys(("centre", "likelihood"), ("reward",)),
    **dict.fromkeys(
        (
            "prompts_per_step", "group_size", "overlap", "updates_per_rollout", "max_new_tokens", "temperature",
            "overlong_cache", "validation_answers", "generator", "samples_kept", "entropy_bonus", "kl_beta",
        ),
        POLICY_METHODS,
    ),
    **dict.fromkeys(("importance_cap", "importance", "off_policy_nats"), _WITH_RATIOS),
    **dict.fromkeys(("clip_low", "clip_high"), _CLIPPED),
    "kl_horizon": ("ppo", "rloo"),
    "ratio_cap": ("cispo", "scalerl"),
    "pass_reward": ("star", "scalerl"),
    "retire": ("scalerl",),
    "dynamic_sampling": ("dapo",),
    **dict.fromkeys(("gae_lambda", "value_weight"), ("ppo",)),
}  # fmt: skip


def check_read(method: str, given: Iterable[str]) -> None:
    """Args: given: settings that are not what they are by default.

    Raises:
        ConfigError: `method` reads one of them nowhere.
    """
    for name in given:
        readers = READERS.get(name, (method,))
        if method not in readers:
            raise ConfigError(
                f"{method} does not read {name}", remedy=f"leave it out; it is of {', '.join(readers)}"
            )
