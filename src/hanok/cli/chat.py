"""`hanok chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def chat(model: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")) -> None:
    """Talk to a model in the terminal.

    Args:
        model: a model directory, or a run (then its servable model).
    """
    from hanok.engine.terminal import chat_terminal
    from hanok.recipes.runs import servable_model

    chat_terminal(servable_model(model))
