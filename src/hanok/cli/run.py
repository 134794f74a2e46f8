"""`hanok run`: a recipe through all steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.reporting import table


def run(
    recipe: Annotated[str, tyro.conf.Positional],
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    directory: Path = Path("runs"),
    name: str | None = None,
) -> dict[str, Any]:
    """Run a recipe through all eight steps. The same command goes on where an earlier one stopped.

    * quickstart: a fictional village in Korean and English, from documents to a chat page
    * align: the same, then preferences and practice; before and after are compared
    * books: a small model of English books
    * medium: a larger one, in hours
    * korean: a small model of Korean Wikipedia and small talk
    * adapt: a model that you have, taught your documents

    Args:
        recipe: name of a shipped recipe (above), or path of a TOML file.
        set: override one value of the recipe: --set pretrain.max_minutes=10 (repeat for more).
        directory: the folder that holds runs.
        name: folder of this run; default: the recipe's name.
    """
    from hanok.recipes.pipeline import run_recipe
    from hanok.recipes.recipe import load_recipe

    loaded = load_recipe(recipe, settings=set)
    place = directory / (name or loaded.name)
    result = run_recipe(loaded, place)
    table(f"{place}: done", ("measure", "value"), list(result.items()))
    print(
        f"report: {place / 'report.html'}\nnext: hanok serve {place}   or   hanok chat {place}",
        file=sys.stderr,
    )
    return {"run": str(place), "model": str(place / "model"), **result}
