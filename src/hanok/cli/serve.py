"""`hanok serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def serve(
    model: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart"),
    host: str = "127.0.0.1",
    port: int = 8080,
) -> None:
    """Serve a model: OpenAI-compatible API under /v1 and a chat page on /.

    Args:
        model: a model directory, or a run (then its servable model).
        host: loopback address to bind; others are refused until there are keys.
        port: TCP port; 0 picks a free one.
    """
    from hanok.recipes.runs import servable_model
    from hanok.server.app import serve as serve_model

    serve_model(servable_model(model), host=host, port=port)
