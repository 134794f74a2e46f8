"""What a server does not load before somebody needs it."""

from __future__ import annotations

import subprocess
import sys


def test_signing_in_elsewhere_and_steps_of_the_tables_are_loaded_when_needed() -> None:
    code = "import sys, hanok.server.app; print(*{'joserfc', 'httpx', 'alembic'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
