"""The eight steps of a recipe as stages, and the servable model at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, open_artefact
from hanok.recipes.card import write_card
from hanok.recipes.front_page import write_front_page
from hanok.recipes.load import to_plain
from hanok.recipes.recipe import Recipe
from hanok.recipes.stages import Stage, run_stages


def run_recipe(recipe: Recipe, run: Path) -> Mapping[str, Any]:
    """Bring every step of the run up to date. Returns the headline results of verify."""
    stages = recipe_stages(recipe, run)
    done = run_stages(stages, run=run, recipe=to_plain(recipe))
    final = done["sft"] if "sft" in done else done["pretrain"]
    publish(run, final.path)
    write_front_page(run, recipe, done)
    write_card(run, recipe, done)
    metrics = done["verify"].metrics
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float))}


def recipe_stages(recipe: Recipe, run: Path) -> list[Stage]:
    """Steps 1 to 6 in order; each imports its room only when it is made."""
    stages: list[Stage] = []
    corpus = "village" if recipe.village is not None else "collect"
    make = _village(recipe) if recipe.village is not None else _collect(recipe)
    stages.append(Stage(name=corpus, config=to_plain(recipe.village or recipe.collect), make=make))
    stages += [
        Stage(name="clean", config=to_plain(recipe.clean), reads=(corpus,), make=_clean(recipe, run, corpus)),
        Stage(name="split", config=to_plain(recipe.split), reads=("clean",), make=_split(recipe, run)),
        Stage(name="tokenizer", config=to_plain(recipe.tokenizer), reads=("split",), make=_tokenizer(recipe, run)),
        Stage(
            name="shards", config=to_plain(recipe.shards), reads=("split", "tokenizer"), make=_shards(recipe, run)
        ),
        Stage(
            name="pretrain", config={"train": to_plain(recipe.pretrain), "model": to_plain(recipe.model)},
            reads=("shards",), make=_pretrain(recipe, run), keeps_partial=True,
        ),
    ]  # fmt: skip
    last = "pretrain"
    if recipe.sft is not None:
        stages.append(
            Stage(
                name="sft", config={"train": to_plain(recipe.sft)}, reads=("shards", "pretrain"),
                make=_sft(recipe, run), keeps_partial=True,
            )
        )  # fmt: skip
        last = "sft"
    reads = (last, "shards", "village") if recipe.village is not None else (last, "shards")
    stages.append(
        Stage(name="verify", config=to_plain(recipe.verify), reads=reads, make=_verify(recipe, run, last))
    )
    return stages


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


def _collect(recipe: Recipe):
    def make(out: Path) -> Artefact:
        from hanok.data.collect import collect

        assert recipe.collect is not None
        return collect(recipe.collect, out)

    return make


def _clean(recipe: Recipe, run: Path, corpus: str):
    def make(out: Path) -> Artefact:
        from hanok.data.clean import clean

        return clean(recipe.clean, run / corpus, out)

    return make


def _split(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.data.split import split

        return split(recipe.split, run / "clean", out)

    return make


def _tokenizer(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.data.tokenizer import train_tokenizer

        return train_tokenizer(recipe.tokenizer, run / "split", out)

    return make


def _shards(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.data.shards import write_shards

        return write_shards(recipe.shards, run / "split", run / "tokenizer", out)

    return make


def _pretrain(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.training.run import train

        return train(recipe.pretrain, shards=run / "shards", out=out, model=recipe.model)

    return make


def _sft(recipe: Recipe, run: Path):
    def make(out: Path) -> Artefact:
        from hanok.training.run import train

        assert recipe.sft is not None
        return train(recipe.sft, shards=run / "shards", out=out, init_from=run / "pretrain" / "model")

    return make


def _verify(recipe: Recipe, run: Path, last: str):
    def make(out: Path) -> Artefact:
        from hanok.evaluation.verify import verify

        village = run / "village" if recipe.village is not None else None
        model = open_artefact(run / last / "model").path
        return verify(recipe.verify, model=model, shards=run / "shards", village=village, out=out)

    return make
