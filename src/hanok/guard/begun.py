"""What may have begun in a text that ends in the middle of a word.

Keys, passwords, addresses and numbers are written in ASCII (or its full-width forms), so between the letters of other scripts
none of them goes on; and all but a few (which rules look for by themselves) are shorter than `REACH`.
"""

from __future__ import annotations

import re

REACH = 256  # characters
_RUN = re.compile(r"[!-~\uff01-\uff5e]+\Z")


def run_from(text: str) -> int:
    """Where the run of such characters at the end of a text begins, or the last `REACH` of it."""
    near = max(0, len(text) - REACH)
    found = _RUN.search(text, near)
    return len(text) if found is None else found.start()
