"""What tests of training share."""

from __future__ import annotations

import pytest

from hanok.reporting import Report


@pytest.fixture
def drawn_pages() -> None:
    """For tests that are about the page: its curves are drawn."""


@pytest.fixture(autouse=True)
def _pages_without_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere they are made and not drawn, which takes as long as the training of a tiny model."""
    if "drawn_pages" not in request.fixturenames:
        monkeypatch.setattr(Report, "add_plot", lambda self, title, figure: figure.axes)
