"""Admission in a process of its own: takes one unit at a time with many threads, and prints how many it got."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hanok.server.admission.ledger import Errand, Ledger
from hanok.store.allowances import Short, Want
from hanok.store.database import Store

place, cap, seconds, step = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
wall = time.time
time.time = lambda: wall() + step  # this process's clock is off by so much
with Store(place if "://" in place else Path(place)) as store:
    ledger = Ledger(store)
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + seconds

    def take(_thread: int) -> int:
        got = 0
        while time.monotonic() < end:
            want = Want("key:x:requests_per_minute", "minute", cap, 1.0)
            asked = ledger.take([want])
            if isinstance(asked, Errand):
                answer = asked.done.result(timeout=30)
                if isinstance(answer, Short):
                    ledger.undo(asked, answer)
                    asked = answer
            if isinstance(asked, Short):
                time.sleep(0.01)
            else:
                got += 1
        return got

    with ThreadPoolExecutor(16) as pool:
        print(sum(pool.map(take, range(16))), flush=True)
    ledger.flush()
