"""F27: eight processes write to the same rows, are stopped, killed and started again, with clocks that are hours apart; what they
said at the end is compared with what is there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hanok.store.conversations import Owner, Shelf, conversations
from hanok.store.database import Store

Said = list[dict[str, Any]]
STEPS = (0.0, 3600.0, -3600.0, 0.0, 1800.0, -7200.0, 0.0, 86_400.0)


class Contender:
    """A process, its lines, and the one that takes its place when it is killed."""

    def __init__(self, place: Path | str, number: int, manner: str) -> None:
        self._place, self._number, self._manner = str(place), number, manner
        self.said: Said = []
        self._thread: threading.Thread | None = None
        self.process = self._start(0)

    def _start(self, life: int) -> subprocess.Popen[str]:
        script = str(Path(__file__).with_name("contender.py"))
        seed, step = self._number * 100 + life, STEPS[self._number % len(STEPS)]
        words = [sys.executable, script, self._place, str(self._number), str(seed), self._manner, str(step)]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        return process

    def go(self) -> None:
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        self._thread = threading.Thread(target=self._listen, args=(process.stdout,))
        self._thread.start()

    def _listen(self, lines: Any) -> None:
        for line in lines:
            if line.endswith("}\n"):  # a kill may cut the last one
                self.said.append(json.loads(line))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._thread is not None:
            self._thread.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def again(self, life: int) -> None:
        self.kill()
        self.process = self._start(life)
        self.go()


@contextlib.contextmanager
def contest(place: Path | str, manner: str, *, writers: int = 8) -> Iterator[Sequence[Contender]]:
    contenders = [Contender(place, number, manner) for number in range(writers)]
    try:
        for one in contenders:
            one.go()
        yield contenders
    finally:
        for one in contenders:
            one.kill()


def trouble(contenders: Sequence[Contender], *, seed: int, seconds: float) -> None:
    """Somebody stands still for a while, somebody is killed and comes back; on a busy machine until something has happened."""
    rng, end, life = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end or (_writes(contenders) < 40 and time.monotonic() < end + 60.0):
        time.sleep(rng.random() * 0.4)
        victim = rng.choice(contenders)
        if rng.random() < 0.7:
            victim.process.send_signal(signal.SIGSTOP)
            time.sleep(rng.random() * 0.5)
            victim.process.send_signal(signal.SIGCONT)
        else:
            life += 1
            victim.again(life)


def _writes(contenders: Sequence[Contender]) -> int:
    return sum(one["kind"] == "write" for contender in contenders for one in list(contender.said))


def faults_of(said: Said, store: Store) -> list[str]:
    """What is wrong with a history; nothing where all is well."""
    shelf, found = Shelf(store.engine, conversations), []
    for tenant in ("t0", "t1"):
        mine = [one for one in said if one.get("tenant") == tenant]
        writes = sorted((one for one in mine if one["kind"] == "write"), key=lambda one: one["version"])
        if len({one["version"] for one in writes}) < len(writes):
            found.append("two writers were told that they had made the same version")
        kept = shelf.find(Owner(tenant, "shared"), "register")
        if writes and (kept is None or kept.version < writes[-1]["version"]):
            found.append("what was acknowledged last is not there")
        if (
            writes
            and kept is not None
            and kept.version == writes[-1]["version"]
            and kept.body["tag"] != writes[-1]["tag"]
        ):
            found.append("there is something else than was acknowledged last")
        found += _out_of_order(writes, [one for one in mine if one["kind"] == "read"])
        firsts = Counter(one["name"] for one in mine if one["kind"] == "submit" and one["version"] == 1)
        if any(times > 1 for times in firsts.values()):
            found.append("two submitted the same event first")
        for one in mine:
            if one["kind"] == "submit" and one["version"] == 1:
                row = shelf.find(Owner(tenant, "shared"), one["name"])
                if row is None or row.body["tag"] != one["tag"]:
                    found.append(f"the event {one['name']} is not what was acknowledged")
    return found


def _out_of_order(writes: Said, reads: Said) -> list[str]:
    """A version that was acknowledged before something began is not news to it."""
    ends = sorted((one["ended"], one["version"]) for one in [*writes, *reads])
    found, place, newest = [], 0, 0
    for one in sorted([*writes, *reads], key=lambda one: one["began"]):
        while place < len(ends) and ends[place][0] < one["began"]:
            newest, place = max(newest, ends[place][1]), place + 1
        least = newest + 1 if one["kind"] == "write" else newest
        if one["version"] < least:
            found.append(f"a {one['kind']} went back from version {newest} to {one['version']}")
    return found


@pytest.mark.faults
def test_f27_what_was_acknowledged_is_there_in_one_order(place: Path | str) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    Store(place).close()
    with contest(place, "careful") as contenders:
        trouble(contenders, seed=seed, seconds=8.0)
    said = [one for contender in contenders for one in contender.said]
    kinds = Counter(one["kind"] for one in said)
    assert min(kinds["write"], kinds["submit"]) >= 40, kinds
    with Store(place) as store:
        assert faults_of(said, store) == []


@pytest.mark.faults
def test_f27_control_writers_without_versions_are_found_out(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    Store(place).close()
    with contest(place, "careless") as contenders:
        end = time.monotonic() + 60.0
        while _writes(contenders) < 100 and time.monotonic() < end:
            time.sleep(0.2)
    said = [one for contender in contenders for one in contender.said]
    with Store(place) as store:
        found = faults_of(said, store)
    assert "two writers were told that they had made the same version" in found
