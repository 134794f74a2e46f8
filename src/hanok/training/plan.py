"""What a run decided at its beginning and must not decide again: precision, threads, schedule. `plan.json`.

A resumed run reads it; with other settings or inputs it is refused, since the result would be of neither.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import write_json
from hanok.errors import ArtefactError, ConfigError
from hanok.kernels import native
from hanok.reporting import log
from hanok.training.config import TrainConfig
from hanok.training.device import DeviceKind, choose_device
from hanok.training.precision import choose_precision
from hanok.training.schedule import Schedule

PLAN_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Args: identity: the settings and the hashes of the inputs that this plan belongs to."""

    identity: dict[str, Any]
    precision: str
    precision_reason: str
    threads: int
    schedule: Schedule
    device: DeviceKind = "cpu"
    device_reason: str = ""

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def with_schedule(self, schedule: Schedule) -> Plan:
        return replace(self, schedule=schedule)

    def write(self, out: Path) -> None:
        write_json(
            out / PLAN_FILE,
            {
                "identity": self.identity,
                "precision": self.precision,
                "precision_reason": self.precision_reason,
                "threads": self.threads,
                "device": self.device,
                "device_reason": self.device_reason,
                "schedule": self.schedule.to_json(),
            },
        )


def new_plan(config: TrainConfig, identity: dict[str, Any], *, processes: int = 1) -> Plan:
    """Decide device, precision and threads; the length of the schedule is set by the loop."""
    threads = config.threads or torch.get_num_threads()
    use_threads(threads)
    device, device_reason = choose_device(config.device, processes=processes)
    dtype, reason = choose_precision(config.precision, device)
    return Plan(
        identity=identity,
        precision="bfloat16" if dtype == torch.bfloat16 else "float32",
        precision_reason=reason,
        threads=threads,
        device=device,
        device_reason=device_reason,
        schedule=Schedule(warmup_steps=config.warmup_steps, final_lr=config.final_lr),
    )


def read_plan(out: Path, identity: dict[str, Any]) -> Plan | None:
    """The plan of the run in `out`, or None if none began there.

    Raises:
        ConfigError: the run there has other settings or inputs. ArtefactError: the file is damaged.
    """
    file = out / PLAN_FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        plan = Plan(**{**values, "schedule": Schedule(**values["schedule"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{file} is not a readable plan ({error})", remedy=f"delete {out} to train from the beginning"
        ) from error
    different = _differences(plan.identity, json.loads(json.dumps(identity)))
    if different:
        raise ConfigError(
            f"{out} holds a training run with other settings ({'; '.join(different[:4])})",
            remedy="give another output directory, or delete that one to train anew",
        )
    if torch.get_num_threads() != plan.threads:
        log.info("using %d threads, as when this run began", plan.threads)
    use_threads(plan.threads)
    return plan


def use_threads(threads: int) -> None:
    """Of PyTorch and of our own kernels."""
    torch.set_num_threads(threads)
    native.set_num_threads(threads)


def _differences(old: dict[str, Any], new: dict[str, Any], place: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differences(before, now, f"{place}{key}.")
        elif before != now:
            found.append(f"{place}{key}: {before} there, {now} now")
    return found
