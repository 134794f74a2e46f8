"""What a service adds at the first token, request by request: from the moment at which a client sends it to that at which the
engine has it, and from that of its first token in the engine to that at which the client has read it.

Client and server share the machine and so the monotonic clock. What the engine itself takes does not count, so some
milliseconds can be told apart that are lost in the differences between two runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hanok.bench.load_client import Load
from hanok.bench.outcome import compare

WANTED = 5.0  # milliseconds


def milliseconds(loads: Sequence[Load], engine: Mapping[str, tuple[float, float]]) -> list[float]:
    """Of each request of the loads. `engine`: of each request's id, when it came and when its first token left.

    Raises:
        RuntimeError: a request that the engine knows nothing of.
    """
    found: list[float] = []
    for one in (moments for load in loads for moments in load.moments):
        if f"{one.id}-0" not in engine:
            raise RuntimeError(f"the engine knows nothing of {one.id}")
        came, left = engine[f"{one.id}-0"]
        found.append(1e3 * (came - one.sent + one.read - left))
    return found


def row(
    case: str,
    rounds: Sequence[Sequence[float]],
    others: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> dict[str, Any]:
    """Args: rounds: of each, milliseconds of its requests. others: the same of another service, instead of what is wanted."""
    middles = [_share(one, 0.5) for one in rounds]
    beside = {name: [_share(one, 0.5) for one in theirs] for name, theirs in (others or {}).items()}
    paired = [[mine - one for mine, one in zip(middles, theirs, strict=True)] for theirs in beside.values()]
    return compare(
        case, "milliseconds that the service adds at the first token, median of the requests", middles,
        beside or {"wanted at most": [WANTED]}, smaller=True, digits=2,
        **({"cost_ms": round(statistics.median(paired[0]), 2)} if paired else {}),
        p95=round(_share([value for one in rounds for value in one], 0.95), 2), requests=sum(map(len, rounds)),
    )  # fmt: skip


def _share(values: Sequence[float], share: float) -> float:
    """The smallest that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
