"""A recipe: the resolved settings of all eight steps, as one frozen dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hanok.data.config import CleanConfig, CollectConfig
from hanok.data.config_tokens import ExtendConfig, ShardsConfig, SplitConfig, TokenizerConfig
from hanok.data.village.config import AlignmentDataConfig, VillageConfig
from hanok.errors import ConfigError
from hanok.evaluation.config import VerifyConfig
from hanok.models.config import ModelConfig
from hanok.recipes.align import AlignStep, check_steps
from hanok.recipes.load import apply_settings, build, find_recipe, read_toml
from hanok.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """A model to start from.

    Args:
        path: a model directory with its tokeniser; `~` and `${NAME:-default}` are filled in.
        extend: tokens that its tokeniser may learn from the documents; "none" leaves it as it is.
        least_gain: the longer tokeniser is taken only if its tokens hold so many times more characters of the documents.
    """

    path: str
    extend: ExtendConfig | None = field(default_factory=ExtendConfig)
    least_gain: float = 1.1

    def __post_init__(self) -> None:
        if self.least_gain < 1:
            raise ConfigError(f"least_gain = {self.least_gain}", remedy="it must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What `hanok run` reads.

    Args:
        name: folder of the run.
        seed: given to every section that has a `seed` and does not set its own.
        village: write the embedded corpus, and ask its questions in verify. collect: read documents. One of the two.
        base: start from this model, in place of [tokenizer] and [model]. The report compares before and after.
        replay: general documents beside one's own, learnt along ("text-replay-train" in a mixture) and measured.
        sft: fine-tuning on the chats after pre-training; left out, the pre-trained model is the result.
        village_alignment: preferences, prompts and an exam about the village, for `align`.
        align: methods of `hanok align`, one upon the other; the report compares before and after.
    """

    name: str
    description: str = ""
    seed: int = 1
    village: VillageConfig | None = None
    collect: CollectConfig | None = None
    replay: CollectConfig | None = None
    base: BaseConfig | None = None
    clean: CleanConfig = field(default_factory=CleanConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    sft: TrainConfig | None = None
    village_alignment: AlignmentDataConfig | None = None
    align: tuple[AlignStep, ...] = ()
    verify: VerifyConfig = field(default_factory=VerifyConfig)

    def __post_init__(self) -> None:
        if (self.village is None) == (self.collect is None):
            raise ConfigError(
                "a recipe has either [village] or [collect]", remedy="say where documents come from"
            )
        if self.base is not None and (self.model, self.tokenizer) != (ModelConfig(), TokenizerConfig()):
            raise ConfigError(
                "[base] brings its own model and tokeniser", remedy="leave [model] and [tokenizer] out"
            )
        if self.village_alignment is not None and self.village is None:
            raise ConfigError(
                "[village_alignment] without [village]", remedy="it asks about the village's places"
            )
        check_steps(self.align, with_village=self.village_alignment is not None)
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ConfigError(f"name = {self.name!r}", remedy="use a plain folder name")


def load_recipe(name_or_path: str, *, settings: Sequence[str] = ()) -> Recipe:
    """Read, override, fill in the seed, resolve paths relative to the recipe's folder.

    Raises:
        ConfigError: with the file, the section and the nearest valid key.
    """
    path = find_recipe(name_or_path)
    values = read_toml(path)
    values.setdefault("name", path.stem)
    values = apply_settings(values, settings)
    _share_seed(values)
    return build(Recipe, values, where="", source=path.name)


def _share_seed(values: dict[str, Any]) -> None:
    seed = values.get("seed", 1)
    for section in dataclasses.fields(Recipe):
        inner = values.get(section.name)
        accepts = section.name in _SEEDED
        if accepts and isinstance(inner, dict):
            inner.setdefault("seed", seed)
    steps = values.get("align")
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and isinstance(step.setdefault("config", {}), dict):
            step["config"].setdefault("seed", seed)


_SEEDED = ("village", "village_alignment", "split", "pretrain", "sft", "verify")
