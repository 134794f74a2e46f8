"""The loop: draw, accumulate, clip, update, log, validate, save. It does not know which objective or model it runs.

Everything a step depends on is in the checkpoint (weights, optimiser, average, RNG, data cursor, policy) or in
the plan (precision, threads, schedule), so a run that is killed anywhere and resumed goes through the same numbers.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic

from torch import Tensor

from hanok.artefacts import Artefact
from hanok.errors import ConfigError, HanokError, Interrupted
from hanok.models.decoder import Decoder
from hanok.reporting import log, progress
from hanok.reporting.console import Progress
from hanok.training.average import WeightAverage
from hanok.training.checkpoint import Checkpoint, Checkpoints, disk_full_is_resumable
from hanok.training.config import TrainConfig
from hanok.training.device import random_state, set_random_state
from hanok.training.metrics import MetricsLog
from hanok.training.objective import Batches, E, Objective, Tally
from hanok.training.optim import Optimiser
from hanok.training.packing import fingerprint
from hanok.training.plan import Plan
from hanok.training.policy import BadStepPolicy
from hanok.training.schedule import Schedule
from hanok.training.stop import StopRequest
from hanok.training.team import Team, fill, whole

_UNTIMED_STEPS = 2  # the first steps build caches and are slower
_LEAST_STEPS = 8
_LEAST_SHARE = 0.03


@dataclass(slots=True)
class Position:
    """Where a run is. `seconds` and `untimed_seconds` (until the rate is measured) add up over all sessions."""

    step: int = 0
    tokens: int = 0
    updates: int = 0
    seconds: float = 0.0
    untimed_seconds: float = 0.0
    validated: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the loop writes into checkpoints, and reads back, but does not look at."""

    out: Path
    parents: Mapping[str, Artefact]
    write_model: Callable[[Decoder, Path], None]
    read_model: Callable[[Path], None]
    team: Team = field(default_factory=Team)


class Trainer(Generic[E]):
    def __init__(
        self, config: TrainConfig, plan: Plan, *, decoder: Decoder, objective: Objective[E], batches: Batches[E],
        surroundings: Surroundings,
    ) -> None:  # fmt: skip
        self.config, self.plan, self.position = config, plan, Position()
        self.decoder, self._objective, self._batches = decoder, objective, batches
        self._around, self.team = surroundings, surroundings.team
        parameters = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
        hints: dict[str, str] = dict(decoder.parameter_groups_hint())
        self._heads = {
            f"heads.{head}.{name}": p for head, module in objective.heads.items() for name, p in module.named_parameters()
        }  # fmt: skip
        hints |= dict.fromkeys(self._heads, "scalar")
        parameters |= self._heads
        self._optimiser = Optimiser(parameters, hints, config, dtype=plan.dtype, team=self.team)
        self.average = WeightAverage(parameters, decay=config.ema_decay) if config.ema_decay else None
        self._policy = BadStepPolicy(config)
        self._checkpoints = Checkpoints(
            surroundings.out / "checkpoints",
            keep=config.keep_checkpoints,
            max_bytes=config.checkpoint_disk_gb * 1e9,
        )
        self.metrics = MetricsLog(surroundings.out / "metrics.jsonl")
        self._stop, self._tally = StopRequest(), Tally()
        self._bar: Progress | None = None
        self._most: tuple[int, int | None] | None = (
            None  # steps and tokens at most, if not only the clock ends the run
        )
        self._clock = time.monotonic()
        self._resumed_seconds = 0.0
        self._saved = (0, False)  # step of the newest checkpoint, and whether it is a regular one

    def resume(self) -> bool:
        """Go back to the newest intact checkpoint; False if there is none and the run starts."""
        self.team.done_by_first(self._checkpoints.clean)
        checkpoint = self._checkpoints.newest()
        step = 0 if checkpoint is None else checkpoint.step
        self.team.done_by_first(lambda: self._cut_to(step))
        if checkpoint is None:
            return False
        self._restore_weights(checkpoint)
        state = checkpoint.state
        self.position = Position(**state["position"])
        self._batches.restore(state["sampler"])
        self._policy.restore(state["policy"])
        self._resumed_seconds = self.position.seconds
        self._saved = (checkpoint.step, state["regular"])
        log.info("resuming after step %d", checkpoint.step)
        return True

    def _cut_to(self, step: int) -> None:
        """Forget what lies behind a step: damaged checkpoints, lines of the log."""
        if step:
            self._checkpoints.drop_after(step)
        self.metrics.cut_to(step)

    def run(self, stop: StopRequest) -> None:
        """Train to the end of the budget.

        Raises:
            Interrupted: stopped by a signal or a full disk; the state is saved.
            HanokError: the bad-step policy gave up.
        """
        self._stop = stop
        self._clock = time.monotonic()
        self._set_length()
        self.decoder.train()
        gc.collect()
        gc.disable()  # reference counting frees the graphs; cycles are collected between intervals
        try:
            with ExitStack() as stack:
                self._after_step(stack)
                while not self.plan.schedule.finished(self.position.step):
                    if self._asked_to_stop() or not self._step():
                        self._stop_here()
                    self._after_step(stack)
        finally:
            gc.enable()

    # One step

    def _step(self) -> bool:
        """One update; False if a stop request came in its middle (the step is then as if never begun)."""
        start = time.perf_counter()
        cursor, drawn = self._batches.state(), random_state(self.team.device)
        examples = self._batches.draw_step()
        assert examples, "the schedule is longer than the data"
        self._tally = Tally()
        units = self._objective.begin_step(self.decoder, examples)
        loss = self._accumulate(examples, units) if units else 0.0
        if loss is None:
            self._optimiser.clear()
            self.decoder.forget_step()
            self._batches.restore(cursor)
            set_random_state(drawn, self.team.device)
            return False
        factor = self.plan.schedule.factor(self.position.step)
        if units:
            grad_norm = self._optimiser.gradient_norm()
            event = self._update(loss, grad_norm, factor)
        else:  # a zero gradient would still move the model: by its momentum
            grad_norm, event = 0.0, "nothing to learn"
        tokens = sum(example.num_tokens for example in examples)
        self.position.step += 1
        self.position.tokens += tokens
        self._tick()
        seconds = time.perf_counter() - start
        row = {
            "step": self.position.step,
            "tokens": self.position.tokens,
            "loss": loss,
            "lr": factor * self.config.muon_lr,
            "grad_norm": grad_norm,
            "data": fingerprint(examples),
            **self._batches.metrics(),
            **self._tally.means(self.team.sum),
            **({"event": event} if event else {}),
            "time.seconds": round(self.position.seconds, 3),
            "time.tokens_per_second": round(tokens / seconds, 1),
        }
        self._write(row)
        if self._bar is not None:
            self._bar.advance(tokens, loss=loss)
        return True

    def _accumulate(self, examples: Sequence[E], units: int) -> float | None:
        """Gradients of the step's mean loss; the loss, or None on a stop request."""
        total = 0.0
        for group in self.team.share(examples, max_tokens=self.config.micro_batch_tokens):
            if self._stop and self.team.alone:
                return None
            loss = self._objective.loss(self.decoder, group, units=units)
            (loss.objective * self.team.size).backward()  # sharded gradients come as the mean over the team
            total += float(loss.total)
            self._tally.add(loss.metrics)
        return self.team.sum(total) / units

    def _update(self, loss: float, grad_norm: float, factor: float) -> str:
        """Update, or what the policy says instead; the event for the log."""
        verdict, why = self._policy.judge(loss, grad_norm)
        if verdict == "good":
            clip = self.config.grad_clip
            scale = clip / grad_norm if clip and grad_norm > clip else 1.0
            self._optimiser.step(factor, gradient_scale=scale)
            self.team.balance(self.decoder)
            self.decoder.after_step()
            self.position.updates += 1
            if self.average is not None:
                self.average.update(self.position.updates)
            return ""
        self._optimiser.clear()
        self.decoder.forget_step()
        where = f"step {self.position.step + 1}"
        if verdict == "skip":
            log.warning("%s: %s; its update is left out", where, why)
            return f"skipped: {why}"
        checkpoint = self._checkpoints.newest_regular() if verdict == "roll back" else None
        if checkpoint is None:
            raise HanokError(
                f"training gave up at {where}: {why}, after {self.config.max_skips} bad steps in a row"
                + ("" if verdict == "stop" else " and no checkpoint to go back to"),
                remedy="lower the learning rates, or look at the data of the steps named in metrics.jsonl",
            )
        log.warning("%s: %s; going back to the weights of step %d", where, why, checkpoint.step)
        self._restore_weights(checkpoint)
        return f"rolled back to the weights of step {checkpoint.step}: {why}"

    # Between steps

    def _after_step(self, stack: ExitStack) -> None:
        """Set the length if it is time to; validate and save where an interval ends."""
        step, schedule = self.position.step, self.plan.schedule
        if step <= _UNTIMED_STEPS:
            self.position.untimed_seconds = self.position.seconds
        if self.config.max_minutes is not None:
            self._plan_time()
            schedule = self.plan.schedule
        if schedule.total_steps is None:
            return
        left = self._tokens_left(schedule.total_steps)
        if self._bar is not None:
            self._bar.left(left)
        elif step < schedule.total_steps and self.team.first:
            self._bar = stack.enter_context(progress("training", left, "tokens"))
        at_end = step == schedule.total_steps
        if at_end or (step and step % self._interval(self.config.validate_every, 4) == 0):
            self._validate()
        if at_end or (step and step % self._interval(self.config.checkpoint_every, 10) == 0):
            if self._saved != (step, True):
                self._save(regular=True)
            gc.collect()

    def _interval(self, configured: int, parts: int) -> int:
        return configured or max(20, -(-self.plan.schedule.first_length // parts))

    def _validate(self) -> None:
        if self.position.validated == self.position.step:
            return
        with self.average.applied() if self.average is not None else nullcontext():
            found = self._objective.validate(
                self.decoder, stopped=lambda: self.team.alone and bool(self._stop)
            )
            self.team.settle(self.decoder)
        if found is None:
            self._stop_here()
        if not found:
            return
        self.position.validated = self.position.step
        self._tick()
        self._write({"step": self.position.step, **found, "time.seconds": round(self.position.seconds, 3)})

    def _save(self, *, regular: bool) -> None:
        if self.team.first:
            self.metrics.flush()
        self._tick()
        tensors = {**self._optimiser.state(), **self._heads, **random_state(self.team.device)}
        if self.average is not None:
            tensors |= self.average.state()
        tensors = {name: whole(tensor) for name, tensor in tensors.items()}
        model = self.team.whole_model(self.decoder)
        self.team.done_by_first(lambda: self._write_checkpoint(model, tensors, regular=regular))
        self._saved = (self.position.step, regular)

    def _write_checkpoint(self, model: Decoder, tensors: Mapping[str, Tensor], *, regular: bool) -> None:
        self._checkpoints.save(
            self.position.step,
            write_model=lambda directory: self._around.write_model(model, directory),
            tensors=tensors,
            state={
                "format": 1,
                "step": self.position.step,
                "regular": regular,
                "position": asdict(self.position),
                "sampler": self._batches.state(),
                "policy": self._policy.state(),
                "schedule": self.plan.schedule.to_json(),
            },
            parents=self._around.parents,
            made_by={"training": self.plan.identity, "step": self.position.step},
        )

    def _stop_here(self) -> None:
        if self._saved[0] != self.position.step:
            self._save(regular=False)
        saved = f"saved after step {self.position.step}" if self.position.step else "before the first step"
        raise Interrupted(
            f"stopped by {self._stop.signal_name or 'a signal'}, {saved}; run the same command to go on"
        )

    def _restore_weights(self, checkpoint: Checkpoint) -> None:
        self._around.read_model(checkpoint.path)
        tensors: dict[str, Tensor] = checkpoint.tensors()
        self._optimiser.restore(tensors)
        for name, parameter in self._heads.items():
            fill(parameter, tensors[name])
        set_random_state(tensors, self.team.device)
        if self.average is not None:
            self.average.restore(tensors)

    def _asked_to_stop(self) -> bool:
        return self.team.sum(float(bool(self._stop))) > 0

    def _write(self, row: Mapping[str, Any]) -> None:
        if not self.team.first:
            return
        with disk_full_is_resumable(self.metrics.path):
            self.metrics.write(row)

    def _tick(self) -> None:
        self.position.seconds = self.team.agree(self._resumed_seconds + time.monotonic() - self._clock)

    def _tokens_left(self, total_steps: int) -> int:
        position = self.position
        if self._most is not None and self._most[0] == total_steps and self._most[1] is not None:
            return self._most[1] - position.tokens
        return round(position.tokens / max(1, position.step) * (total_steps - position.step))

    # The length of the run

    def _set_length(self) -> None:
        """From steps, tokens or epochs at once; a budget in minutes waits for the first steps."""
        self._most = self._batches.count(max_steps=self.config.max_steps, max_tokens=self.config.max_tokens)
        if self._most is None and self.config.max_minutes is None:
            raise ConfigError(
                "the run has no end",
                remedy='set max_steps, max_tokens, max_minutes or mixture_unit = "epochs"',
            )
        if self.plan.schedule.total_steps is None and self.config.max_minutes is None:
            assert self._most is not None
            steps, _ = self._most
            self._fix(self.plan.schedule.of_length(steps, decay_fraction=self.config.decay_fraction))

    def _plan_time(self) -> None:
        """Set or correct the length of a run that ends by the clock."""
        assert self.config.max_minutes is not None
        budget = self.config.max_minutes * 60
        position, schedule = self.position, self.plan.schedule
        if schedule.total_steps is None:
            enough = position.step >= _LEAST_STEPS and position.seconds >= _LEAST_SHARE * budget
            if not enough and (self._most is None or position.step != self._most[0]):
                return
        elif not schedule.due(position.step, position.seconds, budget=budget):
            return
        steps = self._steps_in(budget)
        if self._most is not None:
            steps = min(steps, self._most[0])
        planned = schedule.from_clock(position.step, steps, decay_fraction=self.config.decay_fraction)
        if schedule.total_steps is None:
            log.info("%.1f minutes are about %d steps at this rate", self.config.max_minutes, steps)
        self._fix(replace(planned, checked_step=position.step, checked_seconds=position.seconds))

    def _steps_in(self, budget: float) -> int:
        """The step at which the time will be up, at the rate since the last measurement; so far, where that is too short ago."""
        position, schedule = self.position, self.plan.schedule
        seconds, steps = position.seconds - schedule.checked_seconds, position.step - schedule.checked_step
        short = steps < _LEAST_STEPS and seconds < _LEAST_SHARE * budget
        if not schedule.checked_step or short:
            seconds, steps = position.seconds - position.untimed_seconds, position.step - _UNTIMED_STEPS
        per_step = seconds / max(1, steps)
        return position.step + max(1, int((budget - position.seconds) / max(per_step, 1e-9)))

    def _fix(self, schedule: Schedule) -> None:
        self.plan = self.plan.with_schedule(schedule)
        if self.team.first:
            with disk_full_is_resumable(self._around.out):
                self.plan.write(self._around.out)
