"""Appends to an audit for ever and says what was acknowledged; killed by the test.

audit_writer.py FOLDER NAME [--early] [--synchronous MODE] [--acks FILE] [--count N]
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from sqlalchemy import event

from hanok.store.audit.entry import Entry
from hanok.store.audit.log import AuditLog, LogSettings
from hanok.store.audit.place import AuditPlace

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("name")
parser.add_argument("--early", action="store_true", help="say it before it is so: the negative control")
parser.add_argument("--synchronous", help="another setting of SQLite's: the negative control")
parser.add_argument("--acks", type=Path, help="file instead of standard output")
parser.add_argument("--count", type=int, default=10**9)
parser.add_argument("--threads", type=int, default=4)
options = parser.parse_args()

out = (
    os.open(options.acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if options.acks
    else sys.stdout.fileno()
)
log = AuditLog(
    AuditPlace(options.folder / "log.sqlite", options.folder),
    settings=LogSettings(patience=0.01, checkpoint_rows=20),
)
if options.synchronous:
    log._writer._engine.dispose()
    event.listen(
        log._writer._engine,
        "connect",
        lambda connection, _: connection.execute(f"PRAGMA synchronous={options.synchronous}").close(),
    )


def work(thread: int) -> None:
    for number in range(options.count):
        token = f"{options.name}-{thread}-{number}"
        content = {"text": "아홉 시요. " * 20} if number % 3 == 0 else None
        entry = Entry(kind="request", target=token, actor=f"u{thread}", content=content)
        future = log.append(entry, patient=number % 2 == 0)
        if not options.early:
            future.result(60)
        os.write(out, f"{token}\n".encode())


threads = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in range(options.threads)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
log.close()
