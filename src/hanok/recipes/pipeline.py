"""The eight steps of a recipe as stages, and the servable model at the end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, open_artefact
from hanok.data.config import CollectConfig
from hanok.data.readers.files import filled_in
from hanok.data.shards import PARTS
from hanok.errors import ConfigError
from hanok.recipes.align import COLUMNS, align_stages, aligned_stage, alignment_changes, exam_after
from hanok.recipes.base import changes, forgetting
from hanok.recipes.card import write_card
from hanok.recipes.front_page import write_front_page
from hanok.recipes.load import to_plain
from hanok.recipes.recipe import BaseConfig, Recipe
from hanok.recipes.stages import Stage, run_stages
from hanok.reporting import table


def run_recipe(recipe: Recipe, run: Path) -> Mapping[str, Any]:
    """Bring every step of the run up to date. Returns the headline results of verify."""
    done = run_stages(recipe_stages(recipe, run), run=run, recipe=to_plain(recipe))
    publish(run, done[_last(recipe)].path)
    write_front_page(run, recipe, done)
    write_card(run, recipe, done)
    compared = changes(done)
    if compared:
        table("before and after, bits per byte", ("measure", "before", "after", "change"), compared)
    if aligned := alignment_changes(done):
        table("before and after alignment, share of right answers", COLUMNS, aligned)
    metrics = {**done["verify"].metrics, **forgetting(done)}
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float))}


def recipe_stages(recipe: Recipe, run: Path) -> list[Stage]:
    """Steps 1 to 6 in order; each imports its room only when it is made."""
    corpus = "village" if recipe.village is not None else "collect"
    make = _village(recipe) if recipe.village is not None else _collect(recipe.collect)
    stages = [
        Stage(name=corpus, config=to_plain(recipe.village or recipe.collect), make=make),
        *_documents(recipe, run, corpus),
    ]
    if recipe.replay is not None:
        config = to_plain(recipe.replay)
        stages.append(Stage(name="replay", config=config, make=_collect(recipe.replay)))
        stages += _documents(recipe, run, "replay", mark="replay-", apart_from="split")
    stages += _tokens(recipe, run) if recipe.base is None else _base(recipe, recipe.base, run)
    origin = {"model": to_plain(recipe.model)} if recipe.base is None else {}
    stages.append(
        Stage(
            name="pretrain", config={"train": to_plain(recipe.pretrain), **origin},
            reads=("shards",) if recipe.base is None else ("shards", "base"), make=_pretrain(recipe, run),
            keeps_partial=True,
        )
    )  # fmt: skip
    last = "pretrain"
    if recipe.sft is not None:
        stages.append(
            Stage(
                name="sft", config={"train": to_plain(recipe.sft)}, reads=("shards", "pretrain"),
                make=_sft(recipe, run), keeps_partial=True,
            )
        )  # fmt: skip
        last = "sft"
    stages += align_stages(recipe, run, last)
    last = _last(recipe)
    stages += exam_after(recipe, run, last)
    reads = (last, "shards", "village") if recipe.village is not None else (last, "shards")
    verify = _verify(recipe, run, run / last / "model", run / "shards")
    stages.append(Stage(name="verify", config=to_plain(recipe.verify), reads=reads, make=verify))
    return stages


def _last(recipe: Recipe) -> str:
    """Name of the stage that makes the servable model."""
    return aligned_stage(recipe, "pretrain" if recipe.sft is None else "sft")


def _documents(
    recipe: Recipe, run: Path, corpus: str, *, mark: str = "", apart_from: str | None = None
) -> list[Stage]:
    """Clean and split a corpus; its train part holds nothing of the held-out parts of `apart_from`."""
    clean, split = f"{mark}clean", f"{mark}split"
    others = () if apart_from is None else (apart_from,)
    return [
        Stage(
            name=clean, config=to_plain(recipe.clean), reads=(corpus,), make=_clean(recipe, run / corpus)
        ),
        Stage(
            name=split, config=to_plain(recipe.split), reads=(clean, *others),
            make=_split(recipe, run / clean, [run / name for name in others]),
        ),
    ]  # fmt: skip


def _tokens(recipe: Recipe, run: Path) -> list[Stage]:
    """A tokeniser of one's own, and shards."""
    return [
        Stage(name="tokenizer", config=to_plain(recipe.tokenizer), reads=("split",), make=_tokenizer(recipe, run)),
        _shards_stage(recipe, run, "shards", run / "tokenizer", reads=("tokenizer",)),
    ]  # fmt: skip


def _base(recipe: Recipe, base: BaseConfig, run: Path) -> list[Stage]:
    """The model to start from; shards for it; and what it could do before."""
    path = filled_in(base.path)
    if not path.is_dir():
        raise ConfigError(
            f'base.path = "{base.path}": there is no model directory at {path}',
            remedy="give one with --set base.path=FOLDER",
        )
    origin = {"hash": open_artefact(path).hash}
    return [
        Stage(name="base", config={**to_plain(base), **origin}, reads=("split",), make=_prepare(base, path, run)),
        _shards_stage(recipe, run, "shards", run / "base", reads=("base",)),
        _shards_stage(recipe, run, "before-shards", path, config=origin, parts=("test",)),
        Stage(
            name="before", config={**to_plain(recipe.verify), **origin}, reads=("before-shards",),
            make=_verify(recipe, run, path, run / "before-shards"),
        ),
    ]  # fmt: skip


def _shards_stage(
    recipe: Recipe, run: Path, name: str, tokenizer: Path, *, reads: Sequence[str] = (),
    config: Mapping[str, Any] | None = None, parts: Sequence[str] = PARTS,
) -> Stage:  # fmt: skip
    def make(out: Path) -> Artefact:
        from hanok.data.shards import write_shards

        return write_shards(recipe.shards, run / "split", tokenizer, out, replay=replay, parts=parts)

    replay = run / "replay-split" if recipe.replay is not None else None
    others = ("replay-split",) if replay is not None else ()
    return Stage(
        name=name,
        config={**to_plain(recipe.shards), **(config or {})},
        reads=("split", *reads, *others),
        make=make,
    )


def publish(run: Path, model: Path) -> None:
    """Point `run/model` at a finished model directory, in one step."""
    link = run / "model"
    temporary = run / f".model.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(model, run), target_is_directory=True)
    os.replace(temporary, link)


def _village(recipe: Recipe):
    def make(out: Path) -> Artefact:
        from hanok.data.village.build import write_village

        assert recipe.village is not None
        return write_village(recipe.village, out)

    return make


def _collect(config: CollectConfig | None):
    def make(out: Path) -> Artefact:
        from hanok.data.collect import collect

        assert config is not None
        return collect(config, out)

    return make


def _clean(recipe: Recipe, corpus: Path):
    def make(out: Path) -> Artefact:
        from hanok.data.clean import clean

        return clean(recipe.clean, corpus, out)

    return make


def _split(recipe: Recipe, corpus: Path, apart_from: Sequence[Path]):
    def make(out: Path) -> Artefact:
        from hanok.data.split import split

        held_out = tuple(str(other / part) for other in apart_from for part in ("validation", "test"))
        config = dataclasses.replace(recipe.split, evaluation=(*recipe.split.evaluation, *held_out))
        return split(config, corpus, out)

    return make


def _tokenizer(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.data.tokenizer import train_tokenizer

        return train_tokenizer(recipe.tokenizer, run / "split", out)

    return make


def _prepare(base: BaseConfig, path: Path, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.recipes.base import prepare_base

        return prepare_base(path, run / "split", out, extend=base.extend, least_gain=base.least_gain)

    return make


def _pretrain(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.training.run import train

        if recipe.base is not None:
            return train(recipe.pretrain, shards=run / "shards", out=out, init_from=run / "base")
        return train(recipe.pretrain, shards=run / "shards", out=out, model=recipe.model)

    return make


def _sft(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.training.run import train

        assert recipe.sft is not None
        return train(recipe.sft, shards=run / "shards", out=out, init_from=run / "pretrain" / "model")

    return make


def _verify(recipe: Recipe, run: Path, model: Path, shards: Path):
    def make(out: Path) -> Artefact:
        from hanok.evaluation.verify import verify

        village = run / "village" if recipe.village is not None else None
        return verify(recipe.verify, model=open_artefact(model).path, shards=shards, village=village, out=out)

    return make
