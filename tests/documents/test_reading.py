"""Files as people send them: one message each for what cannot be read."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.documents.reading import MOST_NAME, clean_name, read_texts
from hanok.errors import InputError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
def test_encodings_are_found(encoding: str) -> None:
    text = "휴가는 매년 15일이다.\n신청은 부서장에게 한다."
    assert [one.text for one in read_texts("a.txt", text.encode(encoding))] == [text]


def test_rows_are_texts_of_their_own() -> None:
    rows = [{"text": "첫째 글", "title": "제목"}, {"text": "the second"}, {"none": 1}]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    assert [(one.title, one.text) for one in read_texts("a.jsonl", content)] == [
        ("제목", "첫째 글"),
        ("", "the second"),
    ]


def test_parquet_and_html() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["하나", "둘"]}), file)
    assert [one.text for one in read_texts("a.parquet", file.getvalue())] == ["하나", "둘"]
    page = (
        "<html><body><nav>menu</nav><article><p>"
        + "The tea house opens at nine. " * 10
        + "</p></article></body></html>"
    )
    assert "opens at nine" in read_texts("a.html", page.encode())[0].text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t ", "holds no text"),
        ("a.zip", b"PK\3\4", "is an archive"),
        ("a.png", b"\x89PNG", "no text format"),
        ("a.docx", b"PK\3\4", "no text format"),
        ("a.bin", bytes(range(1, 9)) * 40, "binary data"),
        ("a.txt", b"abc\xff\xfe\xfd\x81" * 30, "no encoding that can be recognised"),
        ("a.pdf", b"%PDF-1.4 cut", "no readable PDF"),
        ("a.jsonl", b"nonsense", "holds no text (line 1 is not JSON"),
        ("a.json", b"[" * 200_000, "nested too deeply"),
        ("a.jsonl", b"[" * 200_000, "nested too deeply"),
        ("a.html", b"<html></html>", "no main text"),
        ("a.parquet", b"PAR1", "no readable Parquet"),
        ("a.txt", b"x" * 2000, "2,000 bytes, and a document may have 1,000"),
    ],
)
def test_what_cannot_be_read_is_said(name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_texts(name, content, most_bytes=1000 if "2,000" in message else 1 << 20)
    assert message in str(error.value)


def test_a_scan_has_no_text() -> None:
    from pypdf import PdfWriter

    writer, file = PdfWriter(), io.BytesIO()
    writer.add_blank_page(100, 100)
    writer.write(file)
    with pytest.raises(InputError, match="1 pages without a text layer"):
        read_texts("scan.pdf", file.getvalue())


def test_half_characters_do_not_stay() -> None:
    assert read_texts("a.jsonl", rb'{"text": "ab \ud83d cd"}')[0].text == "ab ? cd"


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\docs\\handbook.pdf", "handbook.pdf"), ("a\x00b\n c.txt", "ab c.txt"),
        ("글\u202etxt.md", "글txt.md"), ("  .hidden ", "hidden"), ("가" * 300 + ".pdf", "가" * (MOST_NAME - 4) + ".pdf"),
    ],
)  # fmt: skip
def test_names_are_cleaned(name: str, clean: str) -> None:
    assert clean_name(name) == clean


@pytest.mark.parametrize("name", ["", "..", "/", "\x00", "a/"])
def test_names_that_say_nothing(name: str) -> None:
    with pytest.raises(InputError, match="no file name"):
        clean_name(name)


@given(st.text(max_size=300))
def test_any_name_is_clean_or_refused(name: str) -> None:
    try:
        clean = clean_name(name)
    except InputError:
        return
    assert 0 < len(clean) <= MOST_NAME
    assert clean.isprintable()
    assert not set(clean) & set("/\\")
    assert clean_name(clean) == clean
