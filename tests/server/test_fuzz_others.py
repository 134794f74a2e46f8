"""The other half of the routes of `test_fuzz.py`, so that two processes share them."""

from __future__ import annotations

from typing import Any

import httpx
from fuzzing import PATIENCE, fuzz, operations


def test_no_generated_request_breaks_the_server(server: Any) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as http:
        fuzz(server, http, operations(server.url)[1::2])
