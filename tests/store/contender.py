"""One of several processes that write to the same rows; it says what was acknowledged, and when, as JSON lines.

Arguments: place, number, seed, careful or careless, seconds that its clock is off by. Careless: it writes over what it did not
see, as a writer without versions would.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from sqlalchemy.exc import OperationalError

from hanok.store.conversations import Owner, Shelf, VersionConflictError, conversations
from hanok.store.database import Store

place, number, seed, manner, step = (
    sys.argv[1],
    int(sys.argv[2]),
    int(sys.argv[3]),
    sys.argv[4],
    float(sys.argv[5]),
)
wall = time.time
time.time = lambda: wall() + step
rng = random.Random(seed)
store = Store(place if "://" in place else Path(place))
shelf = Shelf(store.engine, conversations)
print("ready", flush=True)
sys.stdin.readline()


def write(owner: Owner, name: str, seen: int, tag: str) -> int | None:
    """The version that was acknowledged; None if somebody wrote meanwhile."""
    try:
        kept = shelf.put(
            owner, name, title="t", body={"tag": tag}, words=[], version=seen if manner == "careful" else None
        )
    except VersionConflictError:
        return None
    return kept.version if manner == "careful" else seen + 1


count = 0
while True:
    count += 1
    owner, tag = Owner(f"t{rng.randrange(2)}", "shared"), f"{number}-{seed}-{count}"
    try:
        # an event that several report: one of them is the first, and nobody else
        event = f"event{count // 3}"
        began = time.monotonic()
        first = write(owner, event, 0, tag)
        said = {"kind": "submit", "tenant": owner.tenant, "name": event, "tag": tag, "version": first}
        print(json.dumps({**said, "began": began, "ended": time.monotonic()}), flush=True)
        # a register that all of them move on
        began = time.monotonic()
        found = shelf.find(owner, "register")
        seen = 0 if found is None else found.version
        said = {"kind": "read", "tenant": owner.tenant, "version": seen}
        print(json.dumps({**said, "began": began, "ended": time.monotonic()}), flush=True)
        time.sleep(rng.random() * 0.01)
        began = time.monotonic()
        version = write(owner, "register", seen, tag)
        if version is not None:
            said = {"kind": "write", "tenant": owner.tenant, "tag": tag, "version": version}
            print(json.dumps({**said, "began": began, "ended": time.monotonic()}), flush=True)
    except OperationalError as error:  # stopped for so long that it lost its turn: nothing was acknowledged
        print(json.dumps({"kind": "lost", "why": str(error)[:80]}), flush=True)
