"""Collecting real files of every format, in every encoding, and what happens to those that cannot be read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hanok.data.collect import collect
from hanok.data.config import CollectConfig, SourceConfig
from hanok.data.corpus import Document, read_corpus
from hanok.errors import InputError

TEXT = "한옥 마을에는 다원 찻집이 있습니다.\n\n두 번째 문단은 조금 더 길어요.\n"


def gather(
    folder: Path, path: Path | str, *, collecting: dict[str, Any] | None = None, **source: Any
) -> list[Document]:
    out = folder / "out"
    config = CollectConfig(sources=(SourceConfig(path=str(path), **source),), **(collecting or {}))
    collect(config, out)
    return list(read_corpus(out))


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp949"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert [d.text for d in gather(tmp_path, tmp_path / "a.txt")] == [TEXT]


def test_latin_text(tmp_path: Path) -> None:
    text = "Le café était fermé à Noël, et l’été aussi.\n"
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    assert gather(tmp_path, tmp_path / "a.txt")[0].text == text


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_compressed(tmp_path: Path, suffix: str, pack: Any) -> None:
    (tmp_path / f"a.txt{suffix}").write_bytes(pack(TEXT.encode()))
    assert gather(tmp_path, tmp_path / f"a.txt{suffix}")[0].text == TEXT


def test_archives_nested_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    members = {
        "b/x.txt": TEXT.encode(),
        "b/y.jsonl.gz": gzip.compress(b'{"text": "row"}\n'),
        ".hidden": b"no",
    }
    tar_of(folder / "a.tar.gz", members)
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr("z.md", "# Title")
        table = io.BytesIO()
        pq.write_table(pa.table({"text": ["from parquet"]}), table)
        archive.writestr("t.parquet", table.getvalue())
    assert [d.text for d in gather(tmp_path, folder)] == [TEXT, "row", "from parquet", "# Title"]


def test_rows(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [
        {"messages": [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "네"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"messages": [{"role": "judge", "content": "?"}]},
        {"nothing": 1},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows] + ["{broken"]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    documents = gather(tmp_path, folder)
    assert [d.messages[1] for d in documents if d.messages] == [
        {"role": "assistant", "content": "네"}, {"role": "assistant", "content": "Hello"},
    ]  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    reasons = " ".join(row["why"] for row in report["Rows that were left out"])
    assert 'message 1 has the role "judge"' in reasons
    assert "no text column among nothing" in reasons
    assert "line 5 is not JSON" in reasons


def test_columns(tmp_path: Path) -> None:
    (tmp_path / "qa.csv").write_text('Q,A,label\n"몇 시, 지금?",세 시,0\n,빈 질문,1\n', encoding="utf-8")
    (document,) = gather(tmp_path, tmp_path / "qa.csv", question_field="Q", answer_field="A", pii="exempt")
    assert document.messages == [
        {"role": "user", "content": "몇 시, 지금?"},
        {"role": "assistant", "content": "세 시"},
    ]
    assert document.meta == {"pii": "exempt"}


def test_nested_fields_groups_and_joined_lines(tmp_path: Path) -> None:
    rows = [{"b": {"t": f"line {i}"}, "book": i // 2, "who": "x"} for i in range(4)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    documents = gather(tmp_path, tmp_path / "a.json", text_field="b.t", group_field="who", name="s")
    assert [(d.text, d.group) for d in documents] == [(f"line {i}", "s#x") for i in range(4)]
    joined = gather(tmp_path / "2", tmp_path / "a.json", text_field="b.t", join_lines="book")
    assert [d.text for d in joined] == ["line 0\nline 1", "line 2\nline 3"]


def test_wiki(tmp_path: Path) -> None:
    article = (
        '<doc id="7" url="u" title="한옥">\n한옥\n\n집이다.\n</doc>\n<doc id="8" url="v" title="끝">\n끝\n'
    )
    (tmp_path / "wiki_00").write_text(article, encoding="utf-8")
    (document,) = gather(tmp_path, tmp_path / "wiki_00")
    assert (document.text, document.meta) == ("한옥\n\n집이다.", {"title": "한옥", "url": "u"})


KAKAO_PC = """마을 님과 카카오톡 대화
저장한 날짜 : 2024-01-02 10:00:00

--------------- 2024년 1월 1일 월요일 ---------------
[민수] [오후 3:21] 안녕
둘째 줄
[지우] [오후 3:22] 반가워
--------------- 2024년 1월 2일 화요일 ---------------
[민수] [오전 9:00] 좋은 아침
"""
KAKAO_PHONE = """마을 카카오톡 대화
저장한 날짜 : 2024년 1월 3일 오후 1:00

2024년 1월 1일 오후 3:21
2024년 1월 1일 오후 3:21, 민수 : 안녕
둘째 줄
2024년 1월 1일 오후 3:22, 지우 : 반가워
2024년 1월 2일 오전 9:00, 민수 : 좋은 아침
"""


@pytest.mark.parametrize("export", [KAKAO_PC, KAKAO_PHONE])
def test_kakaotalk(tmp_path: Path, export: str) -> None:
    (tmp_path / "k.txt").write_text(export, encoding="utf-8")
    documents = gather(tmp_path, tmp_path / "k.txt")
    assert [d.text for d in documents] == ["민수: 안녕\n둘째 줄\n지우: 반가워", "민수: 좋은 아침"]


def test_chatgpt_export_takes_the_current_branch(tmp_path: Path) -> None:
    def node(parent: str | None, role: str, text: str) -> dict[str, Any]:
        return {"parent": parent, "message": {"author": {"role": role}, "content": {"parts": [text]}}}

    nodes = {
        "r": {"parent": None, "message": None}, "q": node("r", "user", "질문"), "old": node("q", "assistant", "옛 답"),
        "new": node("q", "assistant", "새 답"),
    }  # fmt: skip
    rows = [{"title": "제목", "id": "c1", "mapping": nodes, "current_node": "new"}]
    (tmp_path / "conversations.json").write_text(json.dumps(rows), encoding="utf-8")
    (document,) = gather(tmp_path, tmp_path / "conversations.json")
    assert document.messages == [
        {"role": "user", "content": "질문"},
        {"role": "assistant", "content": "새 답"},
    ]


def test_html_keeps_the_main_text(tmp_path: Path) -> None:
    body = "".join(
        f"<p>한옥의 {i}번째 문단은 처마와 마루, 온돌의 쓰임을 차례로 설명하는 글입니다.</p>" for i in range(6)
    )
    page = f"<html><head><title>한옥</title></head><body><nav><a href='/'>메뉴</a></nav><article>{body}</article></body></html>"
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    (document,) = gather(tmp_path, tmp_path / "a.html")
    assert document.text is not None
    assert "5번째 문단" in document.text
    assert "메뉴" not in document.text


def pdf(text: str) -> bytes:
    """A page with one line, with the table of offsets that the format asks for."""
    content = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(data)
    data += b"xref\n0 6\n0000000000 65535 f \n" + table
    return data + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start


def test_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("Hello hanok"))
    (document,) = gather(tmp_path, tmp_path / "a.pdf")
    assert (document.text, document.meta["pages"]) == ("Hello hanok", 1)


def test_long_text_is_cut_at_paragraphs_into_one_group(tmp_path: Path) -> None:
    text = "".join(f"문단 {i} " + "가" * 300 + "\n\n" for i in range(40)) + "긴줄" * 2000
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    documents = gather(tmp_path, tmp_path / "a.txt", collecting={"max_document_bytes": 4000})
    assert "".join(d.text or "" for d in documents) == text
    assert len({d.group for d in documents}) == 1
    assert len({d.id for d in documents}) == len(documents)
    assert all(len(d.text or "") <= 2000 for d in documents)
    assert all((d.text or "").startswith("문단") for d in documents[:6])


def test_unreadable_files_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.txt").write_text(TEXT, encoding="utf-8")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "noise.txt").write_bytes(bytes(range(256)) * 40)
    (folder / "cut.txt.gz").write_bytes(gzip.compress(TEXT.encode() * 9)[:-12])
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "late.txt").write_bytes(TEXT.encode() * 3000 + "한글".encode("cp949"))
    documents = gather(tmp_path, folder)
    assert {d.id.split("#")[0] for d in documents} >= {"in/good.txt"}
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    (title,) = (key for key in report if key.startswith("Files that could not be read"))
    reasons = {row["file"]: row["why"] for row in report[title]}
    assert set(reasons) == {"broken.pdf", "noise.txt", "cut.txt.gz", "picture.png", "late.txt"}
    assert "no readable PDF" in reasons["broken.pdf"]
    assert "late.txt is not utf-8: byte 0x" in reasons["late.txt"]
    with pytest.raises(InputError, match=r"broken\.pdf"):
        gather(tmp_path / "2", folder, collecting={"skip_unreadable": False})


def test_wrong_encoding_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode("cp949"))
    with pytest.raises(InputError, match=r"a\.txt is not utf-8: byte 0x"):
        gather(tmp_path, tmp_path / "a.txt", encoding="utf-8")
    with pytest.raises(InputError, match="no such encoding"):
        gather(tmp_path / "2", tmp_path / "a.txt", encoding="korean-9")


@pytest.mark.parametrize("path", ["nowhere", "*.nothing"])
def test_missing_places(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match=r"does not exist|matches no file"):
        gather(tmp_path, tmp_path / path)


def test_limits(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "0123456789"}\n' * 50)
    assert len(gather(tmp_path, tmp_path / "a.jsonl", limit=7)) == 7
    assert len(gather(tmp_path / "2", tmp_path / "a.jsonl", limit_bytes=95)) == 10


def command(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hanok", "data", "collect", *words], capture_output=True, text=True, input=text, timeout=60,
        check=False,
    )  # fmt: skip


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused = command(str(tmp_path / "empty"), "--out", str(tmp_path / "a"))
    assert refused.returncode == 2
    assert "holds no files" in refused.stderr
    assert "Traceback" not in refused.stderr
    read = command("-", "--out", str(tmp_path / "b"), text=TEXT)
    assert read.returncode == 0, read.stderr
    assert [d.text for d in read_corpus(tmp_path / "b")] == [TEXT]
