"""Whether the engines are well, and what is done about one that is not.

An engine is ill when its last step failed, when its thread died, or when a step does not end. Ill engines make the server not
ready. One whose steps end is asked for a token now and then until it gives one; one whose step hangs gets its requests ended, so
that nobody waits for ever, and systemd is told nothing more, so that it starts the process anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import EngineError
from hanok.reporting import log

STUCK_SECONDS = 120.0  # a step of 512 tokens of a large model takes seconds
_PROBE_SECONDS = 10.0


@dataclass(slots=True)
class _Patient:
    """Args: seen: deaths of the engine's thread that were looked into. ill: why; "" if it is well."""

    seen: int = 0
    ill: str = ""
    probe: asyncio.Task[bool] | None = None
    ended: bool = False  # the requests of a step that hangs


class Health:
    """Args: engines: by model. on_error: told of each illness once."""

    def __init__(
        self, engines: Callable[[], Mapping[str, LocalEngine]], on_error: Callable[[str, str], None], *,
        stuck: float = STUCK_SECONDS, clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._engines, self._on_error, self._stuck, self._clock = engines, on_error, stuck, clock
        self._patients: dict[str, _Patient] = {}

    def problem(self) -> str | None:
        """Why no work is taken; None if all is well."""
        return next((f"{name}: {one.ill}" for name, one in self._patients.items() if one.ill), None)

    def ill(self, name: str) -> bool:
        patient = self._patients.get(name)
        return patient is not None and bool(patient.ill)

    def stuck(self) -> bool:
        return any(one.ended for one in self._patients.values())

    def look(self) -> None:
        """Once a second, on the event loop."""
        engines = self._engines()
        for name in [name for name in self._patients if name not in engines]:
            del self._patients[name]
        for name, engine in engines.items():
            self._examine(name, engine, self._patients.setdefault(name, _Patient(seen=engine.pulse().died)))

    def _examine(self, name: str, engine: LocalEngine, patient: _Patient) -> None:
        pulse, since = engine.pulse(), engine.pulse().since
        if pulse.broken is not None:
            self._fall_ill(name, patient, pulse.broken)
            return
        if since is not None and self._clock() - since > self._stuck:
            self._fall_ill(name, patient, f"a step does not end since {self._clock() - since:.0f} s")
            patient.ended = True  # again and again: who asks meanwhile waits for the same step
            engine.interrupt(EngineError("the engine hangs", remedy="send the request again in a minute"))
            return
        patient.ended = False
        if pulse.failures or pulse.died != patient.seen:
            patient.seen = pulse.died
            self._fall_ill(
                name, patient, f"{pulse.failures} steps failed" if pulse.failures else "its thread died"
            )
        if patient.ill and (patient.probe is None or patient.probe.done()):
            if patient.probe is not None and patient.probe.result() and not pulse.failures:
                log.info("%s is well again", name)
                patient.ill, patient.probe = "", None
            else:
                patient.probe = asyncio.get_running_loop().create_task(_gives_a_token(engine))

    def _fall_ill(self, name: str, patient: _Patient, why: str) -> None:
        if not patient.ill:
            log.error("%s is ill: %s", name, why)
            self._on_error(name, why)
        patient.ill = why


async def _gives_a_token(engine: LocalEngine) -> bool:
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    request = Request(id="probe", prompt_ids=[0], params=params, tenant="\0probe")
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            async for _ in engine.stream(request):
                pass
    except Exception as error:
        log.warning("the engine gives no token: %s", error)
        return False
    return True
