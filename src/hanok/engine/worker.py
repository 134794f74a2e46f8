"""The thread that runs a model for everybody who asks: it hands what arrives to the scheduler and takes step after step."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from hanok.engine.fair import FairLock
from hanok.engine.generation import Generation
from hanok.engine.metrics import Counters, Pulse
from hanok.engine.paged import PagedScheduler
from hanok.engine.post import Gathering
from hanok.engine.scheduler import Scheduler
from hanok.errors import EngineError, HanokError, InputError, TeamError
from hanok.reporting import log

WATCH_SECONDS = 0.1  # between looks at the deadlines of those who wait for a sleeping engine
IDLE_SECONDS = 5.0  # the thread ends when nobody has asked for this long, and starts again by itself


class Worker(ABC):
    """What it knows of the model is `_scheduler`; whoever builds that on it is `LocalEngine`."""

    _scheduler: Scheduler | PagedScheduler

    def __init__(self) -> None:
        self._inbox: list[Generation] = []
        self._gathered: list[Generation] = []  # that will be in the inbox in a moment, together
        self._open: set[Generation] = set()  # submitted, and somebody still listens
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._model = FairLock()  # held while the weights are read
        self._closed = self._resting = self._asleep = False
        self._counters, self._pulse = Counters(), Pulse()

    def pulse(self) -> Pulse:
        """Whether its steps end, and end well."""
        return self._pulse

    @property
    def in_use(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._open)

    def drain_waits(self) -> list[float]:
        """Seconds that requests waited for a place, of those that got one since the last call (the newest 4,096)."""
        waits = self._counters.waits
        return [waits.popleft() for _ in range(len(waits))]

    def interrupt(self, error: Exception) -> int:
        """End whatever is under way with this error, even if a step hangs; returns how many requests that were."""
        with self._wake:
            lost = list(self._open)
        for generation in lost:
            generation.cancelled = True
            generation.failed(error)
        return len(lost)

    def close(self) -> None:
        """Cancel what is under way and end the thread. The engine takes no more requests."""
        with self._wake:
            self._closed = True
            thread = self._thread
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the engine is closed", remedy="make a new one")

    def _submit(self, generations: Sequence[Generation]) -> None:
        with self._wake:
            self._check_able()
            self._open.update(generations)
            self._put_in(generations)

    def _submit_with_others(self, generation: Generation, gathering: Gathering) -> None:
        """Where nothing runs, together with those that come at the same moment."""
        with self._wake:
            self._check_able()
            idle = len(self._open) == len(self._gathered)
            self._open.add(generation)
            if idle:
                self._gathered.append(generation)
            else:
                self._put_in([generation])
        if idle:
            gathering.add(self._hand_over)

    def _hand_over(self) -> None:
        """What was gathered begins; whoever cannot is told."""
        with self._wake:
            gathered, self._gathered = self._gathered, []
            try:
                self._check_able()
                self._put_in(gathered)
                return
            except (HanokError, RuntimeError) as error:  # no thread can be started
                cause = error
        for generation in gathered:
            generation.cancelled = True
            generation.failed(cause)

    def _check_able(self) -> None:
        self._check_open()
        if self._pulse.broken is not None:
            raise EngineError(f"the engine is broken ({self._pulse.broken})", remedy="restart the server")

    def _put_in(self, generations: Sequence[Generation]) -> None:
        """The lock is held."""
        self._inbox += generations
        if self._thread is None:
            self._begin()
        self._wake.notify()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name="hanok-engine", daemon=True)
        thread.start()
        self._thread = thread  # only now: one that could not start is tried again

    def _cancel(self, generations: Sequence[Generation]) -> None:
        """Nobody listens any more."""
        for generation in generations:
            generation.cancelled = True
        with self._wake:
            self._open.difference_update(generations)

    def _run(self) -> None:
        try:
            with torch.inference_mode():  # once for all steps: entering it costs as much as a small layer
                while self._take_in():
                    self._step()
        except BaseException as error:
            self._collapse(error)

    def _collapse(self, cause: BaseException) -> None:
        """The thread ends by an error: tell whoever waits, and leave a scheduler that the next thread can use."""
        log.critical("the engine's thread died; the requests under way are lost", exc_info=cause)
        with self._wake:
            self._pulse.died += 1
            self._pulse.since = None
            self._inbox = []
        error = EngineError(f"the engine stopped ({type(cause).__name__})", remedy="send the request again")
        self.interrupt(error)
        try:
            with self._model:
                if not self._asleep:
                    self._scheduler.abandon()
                    self._scheduler.check()
        except Exception as second:  # what it holds cannot be trusted
            self._rebuild(second)
        with self._wake:
            self._thread = None
            self._wake.notify_all()
            if self._inbox and self._pulse.broken is None:  # they came meanwhile
                self._begin()
            lost, self._inbox = ([], self._inbox) if self._pulse.broken is None else (self._inbox, [])
        for generation in lost:
            generation.failed(error)

    def _take_in(self) -> bool:
        """Hand what has arrived to the scheduler, waiting for it if need be; False when the thread is to end."""
        with self._wake:
            busy = self._has_work()
            if not (busy or (self._inbox and not self._resting) or self._closed):
                self._wake.notify_all()  # `sleep` waits for this
                self._wake.wait(WATCH_SECONDS if self._inbox else IDLE_SECONDS)
            if self._closed:
                for generation in [*([] if self._asleep else self._scheduler.abandon()), *self._inbox]:
                    generation.finish("cancelled")
                self._wake.notify_all()
                return False
            if not (self._inbox or busy):
                self._thread = None
                return False
            if self._resting:
                over = [generation for generation in self._inbox if generation.is_over()]
                self._inbox = [generation for generation in self._inbox if generation not in over]
                for generation in over:
                    generation.finish("cancelled")
                return True
            arrived, self._inbox = self._inbox, []
            for generation in arrived:
                self._scheduler.add(generation)
        return True

    def _has_work(self) -> bool:
        return not self._asleep and self._scheduler.has_work()

    def _step(self) -> None:
        with self._model:
            if not self._has_work():
                return
            self._pulse.since = began = time.perf_counter()
            try:
                self._scheduler.step()
                self._pulse.failures = 0
            except Exception as error:
                self._pulse.failures += 1
                expected = isinstance(error, TeamError)
                log.error("the engine failed; the requests under way are lost", exc_info=not expected)
                for generation in self._scheduler.abandon():
                    generation.failed(error)
            self._pulse.since = None
            self._counters.steps += 1
            self._counters.step_seconds += time.perf_counter() - began

    @abstractmethod
    def _rebuild(self, cause: Exception) -> None:
        """The scheduler cannot be trusted any more: make another, or say in the pulse that the engine is broken."""
