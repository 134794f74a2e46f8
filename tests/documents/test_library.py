"""Files and collections of tenants: idempotent, whole or not at all, nobody else's."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import func, select, update

from hanok.documents import tables as t
from hanok.documents.library import LONGEST_QUERY, Library
from hanok.documents.records import Embedder
from hanok.errors import InputError, NotFoundError
from hanok.store.access import Access
from hanok.store.database import Store

Fill = Callable[..., str]


def test_what_a_question_finds(library: Library, stocked: Fill) -> None:
    everything = stocked(library)
    results = library.search("ours", [everything], "휴가는 며칠인가요?")
    best = results.hits[0]
    assert (best.passage.name, best.passage.heading) == ("handbook.md", "근무 안내 > 휴가")
    assert best.passage.provenance == {
        "source": "document",
        "trusted": False,
        "document": best.passage.file_id,
        "passage": best.passage.number,
    }
    assert [hit.score for hit in results.hits] == sorted((hit.score for hit in results.hits), reverse=True)
    english = library.search("ours", [everything], "When does the tea house open?").hits[0]
    assert english.passage.name == "garden.txt"


def test_a_citation_is_the_text(library: Library, stocked: Fill) -> None:
    everything = stocked(library)
    for hit in library.search("ours", [everything], "재택근무 tea 두부").hits:
        again = library.files.passage("ours", hit.passage.file_id, hit.passage.number)
        text = library.files.text("ours", again.file_id)[again.text_number]
        assert again == hit.passage
        assert text[again.start : again.end] == again.text


def test_the_same_bytes_are_the_same_file(library: Library) -> None:
    first = library.files.add("ours", "a.txt", b"The tea house opens at nine.")
    assert library.files.add("ours", "b.txt", b"The tea house opens at nine.") == first
    other = library.files.add("theirs", "a.txt", b"The tea house opens at nine.")
    assert other.id != first.id
    assert library.files.content("ours", first.id) == b"The tea house opens at nine."
    assert [file.id for file in library.files.list("ours")] == [first.id]


def test_the_same_bytes_at_once(library: Library) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = {
            file.id
            for file in pool.map(lambda n: library.files.add("ours", f"{n}.txt", b"one text"), range(8))
        }
    assert len(ids) == 1


def test_nothing_of_another_tenant(library: Library, stocked: Fill) -> None:
    everything = stocked(library)
    file_id = library.files.list("ours")[0].id
    theirs = library.collections.create("theirs", "empty").id
    for attempt in (
        lambda: library.files.get("theirs", file_id),
        lambda: library.files.content("theirs", file_id),
        lambda: library.files.text("theirs", file_id),
        lambda: library.files.passage("theirs", file_id, 0),
        lambda: library.files.delete("theirs", file_id),
        lambda: library.collections.get("theirs", everything),
        lambda: library.collections.find("theirs", "everything"),
        lambda: library.collections.members("theirs", everything),
        lambda: library.collections.member("theirs", everything, file_id),
        lambda: library.collections.attach("theirs", everything, file_id),
        lambda: library.collections.attach("theirs", theirs, file_id),
        lambda: library.collections.create("theirs", "stolen", file_ids=[file_id]),
        lambda: library.collections.detach("theirs", everything, file_id),
        lambda: library.collections.change("theirs", everything, name="x"),
        lambda: library.collections.delete("theirs", everything),
        lambda: library.search("theirs", [everything], "휴가"),
        lambda: library.search("theirs", [theirs, everything], "휴가"),
    ):
        with pytest.raises(NotFoundError):
            attempt()
    assert library.files.list("theirs") == []
    assert [one.name for one in library.collections.list("theirs")] == ["empty"]
    assert len(library.collections.members("ours", everything)) == 3


def test_scores_know_nothing_of_other_tenants(library: Library, stocked: Fill) -> None:
    everything = stocked(library)
    before = library.search("ours", [everything], "휴가는 며칠?")
    for number in range(5):
        library.files.add("theirs", "x.txt", f"휴가 휴가 휴가 {number}".encode())
    stocked(library, "theirs")
    library.collections.attach("ours", everything, library.files.list("ours")[0].id)
    assert library.search("ours", [everything], "휴가는 며칠?") == before
    assert Library(library._store).search("ours", [everything], "휴가는 며칠?") == before


def test_deleted_files_are_found_no_more(library: Library, stocked: Fill, store: Store) -> None:
    everything = stocked(library)
    doomed = library.search("ours", [everything], "두부는 언제 넣나요?").hits[0].passage
    library.files.delete("ours", doomed.file_id)
    found = library.search("ours", [everything], "두부는 언제 넣나요?").hits
    assert doomed.file_id not in {hit.passage.file_id for hit in found}
    with pytest.raises(NotFoundError):
        library.files.passage("ours", doomed.file_id, doomed.number)
    with store.read() as connection:
        for table in (t.texts, t.passages, t.vectors, t.members):
            rows = connection.execute(
                select(func.count()).select_from(table).where(table.c.file_id == doomed.file_id)
            )
            assert rows.scalar() == 0


def test_a_tenant_is_forgotten_for_good(library: Library, stocked: Fill, store: Store) -> None:
    stocked(library, "theirs")
    everything = stocked(library)
    removed = Access(store).delete_tenant("theirs", now=1.0)
    assert (removed["document_collections"], removed["document_files"]) == (1, 3)
    assert library.files.list("theirs") == []
    assert library.search("ours", [everything], "휴가는 며칠?").hits
    with store.read() as connection:
        assert connection.execute(select(func.count(t.passages.c.file_id.distinct()))).scalar() == 3
    for late in (
        lambda: library.files.add("theirs", "late.txt", b"written a moment behind"),
        lambda: library.collections.create("theirs", "late"),
    ):
        with pytest.raises(InputError, match="gone"):
            late()


def test_another_process_sees_changes(library: Library, stocked: Fill, store: Store) -> None:
    everything, other = stocked(library), Library(store)
    assert other.search("ours", [everything], "두부").hits
    new = library.files.add("ours", "new.txt", "도서관은 자정에 닫는다.".encode())
    library.collections.attach("ours", everything, new.id)
    assert other.search("ours", [everything], "도서관은 언제 닫나요?").hits[0].passage.file_id == new.id
    library.collections.detach("ours", everything, new.id)
    assert new.id not in {
        hit.passage.file_id for hit in other.search("ours", [everything], "도서관은 언제 닫나요?").hits
    }
    assert library.files.get("ours", new.id) == new


def test_filters(library: Library) -> None:
    shelf = library.collections.create("ours", "years").id
    for year in (2022, 2023, 2024):
        file = library.files.add("ours", f"{year}.txt", f"보고서 {year}년".encode())
        library.collections.attach("ours", shelf, file.id, attributes={"year": year, "kind": "report"})

    def names(filters: Mapping[str, object] | None) -> set[str]:
        return {hit.passage.name for hit in library.search("ours", [shelf], "보고서", filters=filters).hits}

    late = {"type": "gte", "key": "year", "value": 2023}
    assert names(None) == {"2022.txt", "2023.txt", "2024.txt"}
    assert names(late) == {"2023.txt", "2024.txt"}
    assert names({"type": "and", "filters": [late, {"type": "ne", "key": "year", "value": 2024}]}) == {
        "2023.txt"
    }
    assert names({"type": "in", "key": "year", "value": [2022, 2024]}) == {"2022.txt", "2024.txt"}
    assert names({"type": "eq", "key": "absent", "value": "x"}) == set()
    assert names({"type": "gt", "key": "kind", "value": 3}) == set()
    with pytest.raises(InputError, match='did you mean "gte"'):
        names({"type": "gtee", "key": "year", "value": 1})


def test_queries_that_say_nothing_or_too_much(library: Library, stocked: Fill) -> None:
    everything = stocked(library)
    for query in ("", "  ", "?!", "가" * (LONGEST_QUERY + 1), "a" * 10_000):
        with pytest.raises(InputError, match="the query"):
            library.search("ours", [everything], query)


def test_odd_queries_do_no_harm(library: Library, stocked: Fill) -> None:
    everything = stocked(library)
    for query in ("가" * LONGEST_QUERY, "' OR 1=1 --", '"AND NOT (', "\ud55c%_*", "zzzz", "\x00a"):
        library.search("ours", [everything], query)


def test_an_empty_collection_finds_nothing(library: Library) -> None:
    shelf = library.collections.create("ours", "empty").id
    assert library.search("ours", [shelf], "휴가").hits == ()


def test_terms_of_older_rules_are_made_anew(library: Library, stocked: Fill, store: Store) -> None:
    everything = stocked(library)
    before = library.search("ours", [everything], "휴가는 며칠?")
    with store.write() as connection:
        connection.execute(update(t.passages).values(words_version=0, codes=b"", often=b""))
    assert Library(store).search("ours", [everything], "휴가는 며칠?") == before


def test_vectors_of_another_embedder_are_made_when_searched(
    library: Library, stocked: Fill, store: Store
) -> None:
    everything, asked = stocked(library), list[int]()

    def embed(given: object) -> np.ndarray:
        texts = list(given)  # type: ignore[call-overload]
        asked.append(len(texts))
        return np.array([[1.0, float("두부" in text)] for text in texts])

    other = Library(store, embedding=Embedder("two", embed))
    hits = other.search("ours", [everything], "두부", blend=1.0).hits
    assert hits[0].passage.name == "kitchen.txt"
    assert hits[0].vectors == pytest.approx(1.0, abs=1e-3)
    asked.clear()
    Library(store, embedding=Embedder("two", embed)).search("ours", [everything], "두부")
    assert asked == [1]  # the query alone: the passages' vectors were kept


def test_what_is_said_of_a_file_counts_at_once_and_makes_no_index_anew(library: Library) -> None:
    file = library.files.add("ours", "tofu.txt", b"tofu is made of beans")
    shelf = library.collections.create("ours", "one", file_ids=[file.id]).id

    def years() -> list[object]:
        return [hit.attributes.get("year") for hit in library.search("ours", [shelf], "tofu").hits]

    assert years() == [None]
    index = library.scores("ours", [shelf], "tofu")[0]
    library.collections.attach("ours", shelf, file.id, attributes={"year": 2024})
    assert years() == [2024]
    wanted = {"type": "eq", "key": "year", "value": 2023}
    assert not library.search("ours", [shelf], "tofu", filters=wanted).hits
    assert library.scores("ours", [shelf], "tofu")[0] is index
    library.collections.attach("ours", shelf, library.files.add("ours", "b.txt", b"beans").id)
    assert library.scores("ours", [shelf], "tofu")[0] is not index


def test_a_slow_index_keeps_no_other_collection_waiting(library: Library, store: Store) -> None:
    """Whoever searches the same collection waits for its index instead of making it again."""
    busy, go, made = threading.Event(), threading.Event(), list[str]()
    shelves = {
        name: library.collections.create(name, name, file_ids=[library.files.add(name, f"{name}.txt", b"tofu").id]).id
        for name in ("slow", "quick")
    }  # fmt: skip

    def embed(given: object) -> np.ndarray:
        texts = list(given)  # type: ignore[call-overload]
        if texts[0].startswith("slow"):  # its passages; the query is another text
            made.append(texts[0])
            busy.set()
            go.wait(30)
        return np.ones((len(texts), 2))

    other = Library(store, embedding=Embedder("two", embed))
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(other.search, "slow", [shelves["slow"]], "tofu") for _ in range(2)]
        assert busy.wait(30)
        quick = pool.submit(other.search, "quick", [shelves["quick"]], "tofu")
        assert quick.result(30).hits
        assert not any(one.done() for one in slow)
        go.set()
        assert all(one.result(30).hits for one in slow)
    assert len(made) == 1


@pytest.mark.parametrize(
    "table",
    [
        "document_vectors",
        *(
            pytest.param(name, marks=pytest.mark.faults)
            for name in ("document_texts", "document_passages", "nothing")
        ),
    ],
)
def test_killed_while_adding_leaves_a_whole_file_or_none(table: str, store: Store) -> None:
    """The process dies inside the transaction, when it comes to a table; "nothing": it does not."""
    code = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from sqlalchemy import event
        from hanok.documents.library import Library
        from hanok.store.database import Store

        with Store(Path(sys.argv[1])) as store:
            library = Library(store)

            @event.listens_for(store._engine, "before_cursor_execute")
            def die(connection, cursor, statement, *rest):
                if statement.startswith(f"INSERT INTO {sys.argv[2]}"):
                    os.kill(os.getpid(), 9)

            library.files.add("ours", "a.txt", b"The tea house opens at nine.")
        """
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path), table], capture_output=True)
    assert done.returncode == (0 if table == "nothing" else -9), done.stderr
    with store.read() as connection:
        left = [
            connection.execute(select(func.count()).select_from(one)).scalar()
            for one in (t.files, t.texts, t.passages, t.vectors)
        ]
    assert left == ([1, 1, 1, 1] if table == "nothing" else [0, 0, 0, 0])
    assert len(Library(store).files.list("ours")) == left[0]
