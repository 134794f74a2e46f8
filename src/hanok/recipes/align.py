"""Step 5 once more in a recipe: each `[[align]]` is a method of `hanok align` upon the result of the one before it.

An exam before and one after say what it brought: of `[village_alignment]`, or else of what verify asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.artefacts import Artefact, sha256_file
from hanok.data.readers.files import filled_in
from hanok.errors import ConfigError, did_you_mean
from hanok.recipes.load import to_plain
from hanok.recipes.stages import Stage
from hanok.training.align.config import AlignConfig
from hanok.training.align.methods import PAIR_METHODS, Method

if TYPE_CHECKING:
    from hanok.recipes.recipe import Recipe

VILLAGE, EXAM, SHARDS = "village", "village-alignment", "shards"
BEFORE, AFTER = "unaligned", "aligned"
COLUMNS = ("questions", "before", "after", "change", "from", "to")
_FILES = {"data": "preferences", "prompts": "prompts"}


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignStep:
    """One method, in the words of `hanok align`.

    Args:
        name: of the step, whose folder is `align-NAME`; default: the method.
        data: preferences, a JSONL file. prompts: likewise, to practise on. Or "village": those of [village_alignment].
        reward: as on the command line; `model:NAME` is the reward model that the earlier step of this name made.
        validation: a file of more of the same; with "village" it has its own.
        rehearsal: learn the run's own shards along in every step, against forgetting.
    """

    method: Method
    name: str = ""
    data: str = ""
    prompts: str = ""
    reward: tuple[str, ...] = ()
    validation: str = ""
    rehearsal: bool = False
    config: AlignConfig = field(default_factory=AlignConfig)

    def __post_init__(self) -> None:
        name = self.name or self.method
        if "/" in name or name.startswith("."):
            raise ConfigError(f"name = {self.name!r}", remedy="use a plain folder name")
        pairs = self.method in PAIR_METHODS
        if pairs and (not self.data or self.prompts or self.reward):
            raise ConfigError(
                f"{self.method} learns from preferences", remedy="give data, no prompts and no reward"
            )
        if not pairs and (not self.prompts or not self.reward or self.data):
            raise ConfigError(f"{self.method} learns from rewards", remedy="give prompts and reward, no data")
        if VILLAGE in (self.data, self.prompts) and self.validation:
            raise ConfigError(
                f"validation = {self.validation!r} beside the village's own", remedy="leave it out"
            )
        self.config.of_method(self.method, rehearses=self.rehearsal)

    @property
    def folder(self) -> str:
        return f"align-{self.name or self.method}"

    @property
    def makes_a_policy(self) -> bool:
        return self.method != "reward"

    @property
    def role(self) -> str:
        return "data" if self.data else "prompts"

    @property
    def asks_village(self) -> bool:
        return VILLAGE in (self.data, self.prompts)


def check_steps(steps: Sequence[AlignStep], *, with_village: bool) -> None:
    """Raises ConfigError: two of one name, a reward model or village data that are not there, nothing that is aligned."""
    folders = [step.folder for step in steps]
    for place, step in enumerate(steps):
        if step.folder in folders[:place]:
            raise ConfigError(
                f'two align steps named "{step.folder.removeprefix("align-")}"',
                remedy="give one of them a name",
            )
        if step.asks_village and not with_village:
            raise ConfigError(
                f'align step {place + 1}: {step.role} = "village"', remedy="add a section [village_alignment]"
            )
        for word, name in _reward_models(step):
            known = [one.folder.removeprefix("align-") for one in steps[:place] if not one.makes_a_policy]
            if name not in known and not Path(name).exists():
                raise ConfigError(
                    f'align step {place + 1}: reward "{word}": no earlier step and no directory of that name',
                    remedy=did_you_mean(name, known) if known else 'let a step with method = "reward" come before it',
                )  # fmt: skip
    if steps and not any(step.makes_a_policy for step in steps):
        raise ConfigError(
            "a reward model alone aligns nothing",
            remedy=f'add a step that uses it: reward = ["model:{steps[0].name or steps[0].method}"]',
        )


def align_stages(recipe: Recipe, run: Path, last: str) -> list[Stage]:
    """From the model of the stage `last` on, with an exam before; the exam after is `exam_after`."""
    if not recipe.align:
        return []
    stages = []
    if recipe.village_alignment is not None:
        config = to_plain(recipe.village_alignment)
        stages.append(Stage(name=EXAM, config=config, reads=(VILLAGE,), make=_village_data(recipe, run)))
    stages.append(_exam(recipe, run, BEFORE, last))
    for step in recipe.align:
        stages.append(_step(recipe, step, run, last))
        last = step.folder if step.makes_a_policy else last
    return stages


def aligned_stage(recipe: Recipe, last: str) -> str:
    """Name of the stage whose model the recipe ends with."""
    return next((step.folder for step in reversed(recipe.align) if step.makes_a_policy), last)


def exam_after(recipe: Recipe, run: Path, last: str) -> list[Stage]:
    """Where the village's harder exam was asked before; else verify itself is the exam after."""
    if recipe.village_alignment is None or not recipe.align:
        return []
    return [_exam(recipe, run, AFTER, last)]


def alignment_changes(done: Mapping[str, Artefact]) -> list[tuple[str, float, float, float, float, float]]:
    """Right answers before and after alignment by kind of question, with the 95 % interval of the paired bootstrap."""
    if BEFORE not in done or "village.questions" not in done[BEFORE].metrics:
        return []
    from hanok.evaluation.compare import compare_answers

    changes = compare_answers(done[BEFORE].path, _after(done).path)
    return [
        (kind, change.before, change.after, change.difference, change.low, change.high)
        for kind, change in changes.items()
    ]


def measured_before(done: Mapping[str, Artefact]) -> tuple[Artefact, Artefact] | None:
    """The two evaluations whose bits per byte the report compares, where there are two: of all that a base model was
    taught, or of what alignment changed."""
    if "before" in done:
        return done["before"], done["verify"]
    return (done[BEFORE], _after(done)) if BEFORE in done else None


def _after(done: Mapping[str, Artefact]) -> Artefact:
    return done[AFTER] if AFTER in done else done["verify"]


def _step(recipe: Recipe, step: AlignStep, run: Path, last: str) -> Stage:
    files = {} if step.asks_village else _files(step)
    models = [f"align-{name}" for _, name in _reward_models(step) if _is_step(recipe, name)]
    config = {
        "align": to_plain(step),
        "files": {role: sha256_file(file) if file.is_file() else None for role, file in files.items()},
    }

    def make(out: Path) -> Artefact:
        start = run / last / "model"
        found = files if not step.asks_village else _of_village(step, run / EXAM)
        validation = found.get("validation")
        rehearsal = run / SHARDS if step.rehearsal else None
        if step.method in PAIR_METHODS:
            from hanok.training.align.run import align_on_preferences

            return align_on_preferences(
                step.method, step.config, model=start, data=found["data"], out=out, validation=validation,
                rehearsal=rehearsal,
            )  # fmt: skip
        from hanok.training.rollouts.run import align_on_rewards

        rewards = [_located(recipe, word, run) for word in step.reward]
        return align_on_rewards(
            step.method, step.config, model=start, prompts=found["prompts"], rewards=rewards, out=out,
            validation=validation, rehearsal=rehearsal,
        )  # fmt: skip

    reads = (last, *((EXAM,) if step.asks_village else ()), *((SHARDS,) if step.rehearsal else ()), *models)
    return Stage(name=step.folder, config=config, reads=reads, make=make, keeps_partial=True)


def _files(step: AlignStep) -> dict[str, Path]:
    named = {step.role: step.data or step.prompts, "validation": step.validation}
    return {role: filled_in(name) for role, name in named.items() if name}


def _of_village(step: AlignStep, data: Path) -> dict[str, Path]:
    stem = _FILES[step.role]
    return {step.role: data / f"{stem}.jsonl", "validation": data / f"{stem}-validation.jsonl"}


def _reward_models(step: AlignStep) -> list[tuple[str, str]]:
    """Words that name a reward model, and what they name."""
    words = [word for word in step.reward if word.startswith("model:")]
    return [(word, word.removeprefix("model:").partition("=")[0]) for word in words]


def _is_step(recipe: Recipe, name: str) -> bool:
    return any(step.folder == f"align-{name}" and not step.makes_a_policy for step in recipe.align)


def _located(recipe: Recipe, word: str, run: Path) -> str:
    """With the directory of an earlier step's reward model in place of the step's name."""
    if not word.startswith("model:"):
        return word
    name, sign, weight = word.removeprefix("model:").partition("=")
    return f"model:{run / f'align-{name}' / 'model'}{sign}{weight}" if _is_step(recipe, name) else word


def _village_data(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.data.village.alignment import write_alignment

        assert recipe.village_alignment is not None
        return write_alignment(recipe.village_alignment, run / VILLAGE, out)

    return make


def _exam(recipe: Recipe, run: Path, name: str, last: str) -> Stage:
    """Every question of the harder village, or what verify asks."""
    corpus = EXAM if recipe.village_alignment is not None else VILLAGE if recipe.village is not None else None
    config = recipe.verify if corpus != EXAM else replace(recipe.verify, questions=0)

    def make(out: Path) -> Artefact:
        from hanok.evaluation.verify import verify

        return verify(
            config,
            model=run / last / "model",
            shards=run / SHARDS,
            village=corpus and run / corpus,
            out=out,
        )

    reads = (last, SHARDS, *((corpus,) if corpus is not None else ()))
    values: dict[str, Any] = to_plain(config)
    return Stage(name=name, config=values, reads=reads, make=make)
