"""`hanok chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def chat(
    model: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart"),
    system: str = "",
    temperature: float | None = None,
    max_tokens: int | None = None,
    weights: Literal["auto", "float32", "bf16", "int8", "int4+", "int4"] = "auto",
    device: str = "auto",
    speculation: Literal["auto", "off", "lookup", "own"] = "auto",
    draft: Path | None = None,
    show_decoding: bool = False,
    temperature_scale: float = 1.0,
    adapter: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    think: Literal["plain", "delethink"] = "plain",
    chunk: int = 8192,
    carry: int | None = None,
    chunks: int = 5,
) -> None:
    """Talk to a model in the terminal, or through a pipe: one line in, one answer out. Under `torchrun` its processes
    share the model.

    Args:
        model: a model directory, or a run (then its servable model).
        system: the system message.
        temperature: 0 always gives the likeliest answer; higher is more varied. Default: the model's decoding heads choose
            for each token, if it has any, else 0.
        max_tokens: of an answer; default: up to the model's context.
        weights: run in bfloat16, 8 or 4 bits on the native kernels; auto: what the file holds, or bfloat16, where they know
            the model, else float32.
        device: cpu, cuda, cuda:N (a GPU), or auto: a GPU if there is one that the other settings run on.
        speculation: guess the next tokens where that makes answers quicker (it never changes them): auto takes guesses from the
            text and from the draft model or the model's own heads for later tokens (mtp), lookup from the text alone, own from
            those heads alone. On the native kernels only.
        draft: directory of a smaller model with the same tokeniser, to guess with.
        think: delethink answers in chunks: each begins from the question and the last words of the one before, so memory does
            not grow with the length of the answer.
        chunk: tokens held beside the question.
        carry: of them kept for the next chunk; default: half.
        chunks: at most.
        show_decoding: show the temperature and top-p of each token: cold ones blue, hot ones red.
        temperature_scale: what the temperatures of the decoding heads are multiplied by: above 1 bolder, below 1 more careful.
        adapter: NAME=DIR, a LoRA adapter of the model in PEFT's files, which answers; several times for several: the first
            answers, /adapter NAME changes to another, /adapter to the model itself.
    """
    from hanok.engine.adapters import parse_adapters
    from hanok.engine.parallel.start import run_together
    from hanok.engine.parallel.team import Team
    from hanok.engine.terminal import chat_terminal
    from hanok.engine.thinking import Delethink
    from hanok.recipes.runs import servable_model

    directory, adapters = servable_model(model), parse_adapters(adapter)
    thinking = Delethink(chunk=chunk, carry=carry, chunks=chunks) if think == "delethink" else None

    def work(team: Team | None) -> None:
        chat_terminal(
            directory, system=system, temperature=temperature, max_tokens=max_tokens, weights=weights,
            speculation=speculation, draft_dir=draft, show_decoding=show_decoding,
            temperature_scale=temperature_scale, thinking=thinking, adapters=adapters, team=team, device=device,
        )  # fmt: skip

    run_together(directory, work)
