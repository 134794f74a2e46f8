"""The page says before the first question that an AI answers, in the words of the API, and at each answer that it did."""

from __future__ import annotations

from typing import Any

import pytest

from hanok.server.protection.transparency import LABELS, NOTICES


@pytest.mark.parametrize("language", ["ko", "en"])
def test_an_ai_answers_and_the_page_says_so(taught: Any, page: Any, language: str) -> None:
    page.open(taught.url, language=language)
    page.until(f"document.querySelector('.hint .ai')?.textContent === {NOTICES[language]!r}")
    assert not page.js("!!document.querySelector('.assistant')")  # nothing was asked yet
    page.js("document.getElementById('input').focus(), 1")
    page.write("hi")
    page.enter()
    page.until("document.querySelectorAll('.assistant .actions').length === 1")
    assert LABELS[language] in page.js("document.querySelector('.assistant .who').textContent")
    assert LABELS[language] not in page.js("document.querySelector('.user .who').textContent")
