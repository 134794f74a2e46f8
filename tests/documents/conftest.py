"""A library in a fresh database, and some documents for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy import event

from hanok.documents.library import Library
from hanok.store.database import Store

HANDBOOK = """# 근무 안내

## 휴가
휴가는 매년 15일이다. 3년 넘게 일한 사람은 20일을 쓴다. 신청은 닷새 앞서 부서장에게 한다.

## 출퇴근
업무는 오전 9시에 시작한다. 재택근무는 일주일에 이틀까지 할 수 있다.
"""
GARDEN = """The tea house opens at nine in the morning. It closes on Mondays.

Visitors who bring their own cups pay less for barley tea.
"""
KITCHEN = "김치찌개는 묵은 김치로 끓인다. 두부는 마지막에 넣는다. 밥은 따로 담는다.\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as kept:
        # tests wait for no disk
        event.listen(kept._engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF").close())
        kept._engine.dispose()
        yield kept


@pytest.fixture
def library(store: Store) -> Library:
    return Library(store)


@pytest.fixture
def texts() -> Mapping[str, str]:
    return {"handbook.md": HANDBOOK, "garden.txt": GARDEN, "kitchen.txt": KITCHEN}


@pytest.fixture
def stocked(texts: Mapping[str, str]) -> Callable[..., str]:
    """Fill a library for a tenant; returns the collection's id."""

    def fill(library: Library, tenant: str = "ours") -> str:
        ids = [library.files.add(tenant, name, text.encode()).id for name, text in texts.items()]
        return library.collections.create(tenant, "everything", file_ids=ids).id

    return fill
