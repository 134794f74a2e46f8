"""`hanok serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


def serve(
    model: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart"),
    host: str = "127.0.0.1",
    port: int = 8080,
    weights: Literal["auto", "float32", "bf16", "int8", "int4"] = "auto",
    cache_mib: int | None = None,
    cache_type: Literal["bf16", "int8"] = "bf16",
    speculation: Literal["auto", "off", "lookup", "own"] = "auto",
    draft: Path | None = None,
    adapter: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    replicas: int = 1,
    runtime: Literal["process", "ray"] = "process",
    store: str | None = None,
    allowed_host: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    trust_loopback: bool = False,
    setup: bool = False,
) -> None:
    """Serve a model: OpenAI-compatible API under /v1 and a chat page on /. Under `torchrun` its processes share the model.

    Args:
        model: a model directory, or a run (then its servable model).
        host: address to bind; others than this machine's are refused until there are keys.
        port: TCP port; 0 picks a free one.
        weights: run in bfloat16, 8 or 4 bits on the native kernels; auto: what the file holds, or bfloat16, where they know
            the model, else float32.
        cache_mib: memory for keys and values of the native kernels; default: by the model's context, 2048 at most.
        cache_type: of those keys and values; int8 takes about half the memory.
        speculation: guess the next tokens where that makes answers quicker (it never changes them): auto takes guesses from the
            text and from the draft model or the model's own heads for later tokens (mtp), lookup from the text alone, own from
            those heads alone. On the native kernels only.
        draft: directory of a smaller model with the same tokeniser, to guess with.
        adapter: NAME=DIR, a LoRA adapter of the model in PEFT's files; several times for several. Each is a model of its own
            in the API, chosen by its name; requests for all of them run in one batch.
        replicas: engines behind one address, each with the whole model and its part of the cores (with runtime ray).
        runtime: where the engine runs: process, this one; ray, replicas under Ray Serve (needs the extra "ray").
        store: the database: a file, or postgresql://USER@HOST/NAME; default: a file beside the model. HANOK_STORE says it too.
        allowed_host: a name by which the server is called from elsewhere; several times for several.
        trust_loopback: who sits at this machine needs no key, even where there are keys.
        setup: print a token with which the first administrator is made on the page.
    """
    from hanok.cli.places import store_place
    from hanok.engine.adapters import parse_adapters
    from hanok.recipes.runs import servable_model
    from hanok.server.identity.directory import Entry

    directory = servable_model(model)
    place = store_place(store, model)
    options: dict[str, Any] = {
        "weights": weights, "cache_bytes": cache_mib and cache_mib << 20, "cache_type": cache_type,
        "speculation": speculation, "draft_dir": draft, "adapters": parse_adapters(adapter),
    }  # fmt: skip
    if runtime == "ray":
        from hanok.server.replicas import serve_replicas

        serve_replicas(directory, replicas=replicas, host=host, port=port, store=place, options=options)
        return
    if replicas != 1:
        from hanok.errors import ConfigError

        raise ConfigError(f"{replicas} replicas in one process", remedy="add --runtime ray")
    from hanok.engine.parallel.start import run_together
    from hanok.engine.parallel.team import Team
    from hanok.server.app import serve as serve_model

    def work(team: Team | None) -> None:
        entry = Entry(trust_loopback=trust_loopback, allowed_hosts=allowed_host, setup=setup)
        serve_model(directory, host=host, port=port, team=team, store=place, entry=entry, **options)

    run_together(directory, work)
