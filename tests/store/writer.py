"""Adds feedback for ever and prints each id once it is acknowledged; killed by the test."""

from __future__ import annotations

import sys
from pathlib import Path

from hanok.store.database import Feedback, Store

store = Store(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    row = Feedback(
        id=f"fb-{sys.argv[2]}-{number}", request_id=f"chatcmpl-{number}", model_hash="00", rating=1 if number % 2 else -1,
        messages=[{"role": "user", "content": "문은 언제 여나요?"}, {"role": "assistant", "content": "아홉 시요." * 50}],
    )  # fmt: skip
    print(store.add_feedback(row), flush=True)
