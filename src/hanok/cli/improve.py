"""`hanok improve`: step 8."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.improvement.config import ImproveConfig
from hanok.reporting import table


def improve(
    run: Annotated[Path, tyro.conf.Positional],
    feedback: Path | None = None,
    out: Path | None = None,
    require_signature: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = (),
    config: ImproveConfig = ImproveConfig(),
) -> dict[str, Any]:
    """Learn from feedback: fine-tune on corrections with replay, and show before and after on the same questions.

    Args:
        run: the run whose model was served.
        feedback: a JSONL file, or a feedback database; default: what the chat page stored for this run.
        out: directory to make; default: the run's next improve-NNN.
        require_signature: file with a public key that must have signed the model that is learnt from; several times for several,
            any of which will do.
        config: rounds, learning rates, replay, tolerances; what must be reviewed.
    """
    from contextlib import nullcontext

    from hanok.artefacts import withdrawal
    from hanok.artefacts.signing import Trusted
    from hanok.cli.review import audited_queue
    from hanok.engine.images import none_kept
    from hanok.improvement.improve import improve as improve_run

    trusted = Trusted.of(require_signature)
    with nullcontext() if trusted is None else none_kept():  # nobody has signed packed weights
        model = improve_run(
            run, feedback=feedback, out=out, config=config, queue=audited_queue, trusted=trusted
        )
    scalars = [
        (name, value)
        for name, value in model.metrics.items()
        if isinstance(value, (int, float)) and name != "accepted"
    ]
    table(f"{model.path.parent}", ("measure", "value"), scalars)
    accepted, note = model.metrics["accepted"], withdrawal(model.path)
    if note is not None and accepted:
        verdict = f"accepted, then {note}; hanok serve {run} keeps the model before"
    elif accepted:
        verdict = f"accepted; next: hanok serve {model.path.parent if out else run}"
    else:
        verdict = f"not accepted; hanok serve {run} keeps the old model"
    print("\n".join(model.metrics["reasons"]), file=sys.stderr)
    print(f"report: {model.path.parent / 'report.html'}\n{verdict}", file=sys.stderr)
    return {
        "path": str(model.path), "accepted": accepted and note is None, "metrics": dict(model.metrics),
        "withdrawn": None if note is None else asdict(note),
    }  # fmt: skip
