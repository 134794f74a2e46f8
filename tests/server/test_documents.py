"""Documents over HTTP: OpenAI's own client, unchanged, against files, vector stores and search."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from hanok.documents.library import Library
from hanok.server.document_vectors import ModelEmbedding, embedder_of
from hanok.server.hosting import Hosted, ModelSpec
from hanok.server.models import Models, Served
from hanok.server.operations.replacing import Replacing
from hanok.store.database import Store

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("python_multipart") is None, reason="python-multipart is not installed"
)
HANDBOOK = "# 휴가\n휴가는 매년 15일이다. 신청은 부서장에게 한다.\n\n# 출퇴근\n업무는 오전 9시에 시작한다.\n".encode()
GARDEN = b"The tea house opens at nine in the morning. It closes on Mondays."


@pytest.fixture
def client(server) -> Iterator[openai.OpenAI]:  # type: ignore[no-untyped-def]
    """Of a server without documents."""
    yield server.openai
    for file in server.openai.files.list():
        server.openai.files.delete(file.id)
    for store in server.openai.vector_stores.list():
        server.openai.vector_stores.delete(store.id)


def test_files(client: openai.OpenAI) -> None:
    file = client.files.create(file=("handbook.md", HANDBOOK), purpose="assistants")
    assert (file.filename, file.bytes, file.status, file.object) == (
        "handbook.md",
        len(HANDBOOK),
        "processed",
        "file",
    )
    assert client.files.create(file=("again.md", HANDBOOK), purpose="user_data").id == file.id
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == HANDBOOK
    other = client.files.create(file=("garden.txt", GARDEN), purpose="user_data")
    assert [one.id for one in client.files.list()] == [other.id, file.id]
    assert [one.id for one in client.files.list(order="asc", limit=1)] == [
        file.id,
        other.id,
    ]  # walks the pages
    assert [one.id for one in client.files.list(purpose="user_data")] == [other.id]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="no file"):
        client.files.retrieve(file.id)


def test_vector_stores(client: openai.OpenAI) -> None:
    files = [
        client.files.create(file=one, purpose="assistants")
        for one in (("handbook.md", HANDBOOK), ("garden.txt", GARDEN))
    ]
    store = client.vector_stores.create(name="everything", file_ids=[files[0].id], metadata={"team": "a"})
    assert (store.name, store.status, store.file_counts.completed) == ("everything", "completed", 1)
    attached = client.vector_stores.files.create_and_poll(
        files[1].id, vector_store_id=store.id, attributes={"language": "en", "year": 2024}
    )
    assert (attached.status, attached.attributes) == ("completed", {"language": "en", "year": 2024})
    assert {one.id for one in client.vector_stores.files.list(store.id)} == {file.id for file in files}
    assert client.vector_stores.files.retrieve(files[1].id, vector_store_id=store.id) == attached
    changed = client.vector_stores.files.update(
        files[1].id, vector_store_id=store.id, attributes={"language": "en", "year": 2025}
    )
    assert changed.attributes == {"language": "en", "year": 2025}
    [text] = client.vector_stores.files.content(files[1].id, vector_store_id=store.id)
    assert text.text == GARDEN.decode()
    assert client.vector_stores.update(store.id, name="all of it").name == "all of it"
    assert client.vector_stores.retrieve(store.id).usage_bytes == len(HANDBOOK) + len(GARDEN)
    assert [one.id for one in client.vector_stores.list()] == [store.id]
    assert client.vector_stores.files.delete(files[0].id, vector_store_id=store.id).deleted
    assert client.vector_stores.retrieve(store.id).file_counts.total == 1
    assert client.vector_stores.delete(store.id).deleted
    assert len(list(client.files.list())) == 2  # files stay


def test_search(client: openai.OpenAI, server) -> None:  # type: ignore[no-untyped-def]
    store = client.vector_stores.create(name="search")
    for name, content in (("handbook.md", HANDBOOK), ("garden.txt", GARDEN)):
        client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=(name, content))
    found = client.vector_stores.search(store.id, query="휴가는 며칠인가요?", max_num_results=2)
    best = found.data[0]
    assert best.filename == "handbook.md"
    assert "15일" in best.content[0].text
    assert 0 <= best.score <= 1
    path = f"/v1/files/{best.file_id}/passages/{best.model_dump()['passage']}"
    passage = server.http.get(path).json()
    assert passage["text"] == best.content[0].text
    assert passage["provenance"] == {
        "source": "document", "trusted": False, "document": best.file_id, "passage": passage["passage"],
    }  # fmt: skip
    english = client.vector_stores.search(
        store.id, query=["tea house", "opening"], ranking_options={"ranker": "auto", "score_threshold": 0.1}
    )
    assert [one.filename for one in english.data] == ["garden.txt"]
    none = client.vector_stores.search(
        store.id, query="tea", filters={"type": "eq", "key": "x", "value": "y"}
    )
    assert none.data == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"PK", "is an archive"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b" ", "holds no text"),
        ("..", b"text", "no file name"),
    ],
)
def test_files_that_cannot_be_kept(server, name: str, content: bytes, message: str) -> None:  # type: ignore[no-untyped-def]
    response = server.http.post("/v1/files", files={"file": (name, content)}, data={"purpose": "assistants"})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_bad_requests(client: openai.OpenAI, server) -> None:  # type: ignore[no-untyped-def]
    http: httpx.Client = server.http
    store = client.vector_stores.create(name="bad").id
    file = client.files.create(file=("a.txt", b"text"), purpose="assistants").id
    for response, status in (
        (http.post("/v1/files", json={}), 400),
        (http.post("/v1/files", data={"purpose": "assistants"}, files={"other": b"x"}), 400),
        (http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.txt", b"x")}), 400),
        (http.post("/v1/files", data={"expires_after[days]": "1"}, files={"file": ("a.txt", b"x")}), 400),
        (http.post("/v1/files", files={"file": ("a.txt", b"x" * (33 << 20))}), 413),
        (
            http.post(
                "/v1/files", content=b"junk", headers={"content-type": "multipart/form-data; boundary=x"}
            ),
            400,
        ),
        (http.get(f"/v1/files/{file}/passages/7"), 404),
        (http.get(f"/v1/files/{file}/passages/99999999999999999999"), 400),
        (http.get("/v1/files/file-none/passages/0"), 404),
        (http.get("/v1/files/file-none/content"), 404),
        (http.delete("/v1/files/file-none"), 404),
        (http.get("/v1/files?after=nothing"), 400),
        (http.post("/v1/vector_stores", json={"file_ids": ["file-none"]}), 404),
        (
            http.post("/v1/vector_stores", json={"expires_after": {"anchor": "last_active_at", "days": 1}}),
            400,
        ),
        (http.post("/v1/vector_stores", json={"metadata": {str(n): "x" for n in range(20)}}), 400),
        (http.post(f"/v1/vector_stores/{store}/files", json={"file_id": "file-none"}), 404),
        (http.get(f"/v1/vector_stores/{store}/files/{file}"), 404),
        (http.delete(f"/v1/vector_stores/{store}/files/{file}"), 404),
        (http.post("/v1/vector_stores/vs_none/search", json={"query": "x"}), 404),
        (http.post(f"/v1/vector_stores/{store}/search", json={"query": " "}), 400),
        (http.post(f"/v1/vector_stores/{store}/search", json={"query": "가" * 10_000}), 400),
        (http.post(f"/v1/vector_stores/{store}/search", json={"query": "x", "max_num_results": 51}), 400),
        (http.post(f"/v1/vector_stores/{store}/search", json={"query": "x", "filters": {"type": "no"}}), 400),
        (http.get("/v1/vector_stores/vs_none"), 404),
        (http.delete("/v1/vector_stores/vs_none"), 404),
    ):
        assert response.status_code == status, (response.request.url, response.text)
        assert response.json()["error"]["message"]


def test_another_tenants_are_not_found(client: openai.OpenAI, server) -> None:  # type: ignore[no-untyped-def]
    library = Library(server.store)
    file = library.files.add("theirs", "secret.txt", b"their secret")
    store = library.collections.create("theirs", "secrets", file_ids=[file.id])
    mine = client.vector_stores.create(name="mine")
    assert list(client.files.list()) == []
    for attempt in (
        lambda: client.files.retrieve(file.id),
        lambda: client.files.content(file.id),
        lambda: client.files.delete(file.id),
        lambda: client.vector_stores.retrieve(store.id),
        lambda: client.vector_stores.search(store.id, query="secret"),
        lambda: client.vector_stores.files.create(mine.id, file_id=file.id),
        lambda: client.vector_stores.files.list(store.id),
        lambda: client.vector_stores.delete(store.id),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()
    assert library.files.get("theirs", file.id) == file


@pytest.fixture
def brackets(server) -> dict[str, int]:  # type: ignore[no-untyped-def]
    """A bias towards tokens that citations are made of."""
    tokenizer = server.engine.tokenizer
    return {str(tokenizer.encode(sign)[-1]): 99 if sign in "[]" else 98 for sign in "[]129"}


def grounded(server, store: str, question: str, **more: object) -> dict[str, object]:  # type: ignore[no-untyped-def]
    documents = {"vector_store_ids": [store], "max_num_results": 2, **more}
    return {
        "model": server.model,
        "messages": [{"role": "user", "content": question}],
        "extra_body": {"documents": documents},
    }


def test_answers_cite(client: openai.OpenAI, server, brackets: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
    store = client.vector_stores.create(name="cite")
    for name, content in (("handbook.md", HANDBOOK), ("garden.txt", GARDEN)):
        client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=(name, content))
    body = {
        **grounded(server, store.id, "휴가는 며칠인가요?", least_support=0), "max_tokens": 300, "seed": 3, "temperature": 2.0,
        "logit_bias": brackets,
    }  # fmt: skip
    whole = client.chat.completions.create(**body)  # type: ignore[call-overload]
    message = whole.choices[0].message
    shown = [
        int(number)
        for group in re.findall(r"\[(\d+(?:, \d+)*)\]", message.content)
        for number in group.split(", ")
    ]
    annotations = [one.model_dump() for one in message.annotations]
    assert shown
    assert [one["number"] for one in annotations] == shown
    assert set(shown) <= {1, 2}
    for one in annotations:
        assert one["type"] == "file_citation"
        assert message.content[one["index"]] == "["
        passage = server.http.get(f"/v1/files/{one['file_id']}/passages/{one['passage']}").json()
        assert (passage["text"], passage["start"], passage["end"]) == (one["text"], one["start"], one["end"])
    assert whole.model_dump()["documents"]["removed_citations"] > 0

    text, streamed = "", []
    for chunk in client.chat.completions.create(**body, stream=True):  # type: ignore[call-overload]
        text += chunk.choices[0].delta.content or ""
        streamed += chunk.choices[0].delta.model_dump().get("annotations") or []
    places = [
        [(one["index"], one["number"], one["passage"]) for one in told] for told in (annotations, streamed)
    ]
    assert text == message.content
    assert places[0] == places[1]
    kept = server.store.find_request(whole.id)
    assert kept.answers[0]["content"] == message.content
    assert "휴가는 매년 15일이다" in kept.messages[0]["content"]


def test_answers_without_support(client: openai.OpenAI, server) -> None:  # type: ignore[no-untyped-def]
    file = client.files.create(file=("garden.txt", GARDEN), purpose="assistants")
    store = client.vector_stores.create(name="unknown", file_ids=[file.id])
    for question, answer in (
        ("화성의 위성은 몇 개인가요?", "찾을 수 없습니다"),
        ("Who wrote Hamlet?", "could not find"),
    ):
        body = grounded(server, store.id, question)
        whole = client.chat.completions.create(**body)  # type: ignore[call-overload]
        assert answer in whole.choices[0].message.content
        assert whole.usage.completion_tokens == 0
        assert whole.model_dump()["documents"]["answered"] is False
        pieces = client.chat.completions.create(**body, stream=True)  # type: ignore[call-overload]
        assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**grounded(server, "vs_none", "tea?"))  # type: ignore[call-overload]
    with pytest.raises(openai.BadRequestError, match="query is empty"):
        client.chat.completions.create(**grounded(server, store.id, "?"))  # type: ignore[call-overload]


def test_a_form_is_kept(client: openai.OpenAI, server) -> None:  # type: ignore[no-untyped-def]
    """An answer that must be JSON keeps its brackets, and is no refusal."""
    file = client.files.create(file=("garden.txt", GARDEN), purpose="assistants")
    store = client.vector_stores.create(name="form", file_ids=[file.id])
    whole = client.chat.completions.create(
        **grounded(server, store.id, "Who wrote Hamlet?"),  # type: ignore[call-overload]
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": [9]}}},
    )
    assert json.loads(whole.choices[0].message.content) == [9]


def test_passages_that_do_not_fit_are_left_out(client: openai.OpenAI, server) -> None:  # type: ignore[no-untyped-def]
    store = client.vector_stores.create(name="long")
    for number in range(5):
        text = f"The tea house number {number} opens at nine in the morning and " + "serves barley tea. " * 30
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=(f"{number}.txt", text.encode())
        )
    body = grounded(server, store.id, "When does the tea house open?", max_num_results=5, least_support=0)
    whole = client.chat.completions.create(**body, max_tokens=4)  # type: ignore[call-overload]
    assert 1 <= whole.model_dump()["documents"]["passages"] < 5


def test_vectors_of_the_model(server, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The oracle is /v1/embeddings: the same means, of length 1."""
    embedder = embedder_of(Served(server.model, server.engine, server.model_hash))
    texts = ["휴가는 15일이다.", "tea"]
    answer = server.openai.embeddings.create(model=server.model, input=texts, encoding_format="float")
    vectors = embedder.embed(texts)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, [one.embedding for one in answer.data], atol=1e-5)
    with Store(tmp_path / "store.sqlite") as store:
        library = Library(store, embedding=embedder)
        file = library.files.add("ours", "garden.txt", GARDEN)
        shelf = library.collections.create("ours", "one", file_ids=[file.id]).id
        [hit] = library.search("ours", [shelf], f"garden\n\n\n{GARDEN.decode()}", blend=1.0).hits
    assert hit.score == pytest.approx(1.0, abs=1e-3)  # the very text that it is found by


def test_vectors_of_the_model_come_from_whichever_is_served(
    random_run: Path, tmp_path: Path, tiny_model: Any
) -> None:
    """Asked in a worker's thread after the model was unloaded, and after another took its place."""
    spec = ModelSpec(name="one", directory=random_run / "model")
    models, other = Models.of([Hosted(spec)]), tiny_model(tmp_path / "other", seed=4, hidden_size=64)
    replacing = Replacing(lambda *_: None, probation=0.0)

    async def work(library: Library) -> None:
        models.begin()
        file = await asyncio.to_thread(library.files.add, "ours", "garden.txt", GARDEN)  # loads the model
        shelf = library.collections.create("ours", "one", file_ids=[file.id]).id

        async def score() -> float:
            asked = f"garden\n\n\n{GARDEN.decode()}"
            [hit] = (await asyncio.to_thread(library.search, "ours", [shelf], asked, blend=1.0)).hits
            return hit.score

        before = models.default.engine
        await models.unload("one")
        assert await score() == pytest.approx(1.0, abs=1e-3)
        await replacing.replace(models.host("one"), other)
        while models.host("one").replacing:
            await asyncio.sleep(0.01)
        assert before._closed
        assert await score() == pytest.approx(1.0, abs=1e-3)  # made anew, of another width
        await replacing.close()

    with Store(tmp_path / "store.sqlite") as store:
        try:
            asyncio.run(asyncio.wait_for(work(Library(store, embedding=ModelEmbedding(models))), 120))
        finally:
            models.close()


def test_nobody_holds_a_model_while_documents_are_searched(
    server, monkeypatch: pytest.MonkeyPatch, client
) -> None:  # type: ignore[no-untyped-def]
    """Vectors may come from another model, which may have to wait until this one can be put away."""
    store = client.vector_stores.create(name="garden")
    file = client.files.create(file=("garden.txt", GARDEN), purpose="user_data")
    client.vector_stores.files.create_and_poll(vector_store_id=store.id, file_id=file.id)
    held: list[int] = []
    search = Library.search
    gc.unfreeze()  # what was there before this file is listed too (tests/conftest.py sets it apart)

    def look(self: Library, *args: Any, **options: Any) -> Any:
        models = [one for one in gc.get_objects() if type(one) is Hosted and one.engine is server.engine]
        held.append(sum(one.users for one in models))
        assert models
        return search(self, *args, **options)

    monkeypatch.setattr(Library, "search", look)
    body = {
        "model": server.model, "messages": [{"role": "user", "content": "When does the tea house open?"}],
        "max_tokens": 3, "documents": {"vector_store_ids": [store.id]},
    }  # fmt: skip
    assert server.http.post("/v1/chat/completions", json=body).status_code == 200
    assert held == [0]
