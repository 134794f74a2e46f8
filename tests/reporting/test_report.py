"""Report pages: what is written is shown and nothing else runs; the same content as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hanok.reporting import Report, put_notice


def test_page_and_json(tmp_path: Path) -> None:
    report = Report("Clean <1>", lang="ko")
    report.add_table(
        "Dropped", ("reason", "documents"), [("<script>alert(1)</script>", 12_345), ("short", 3)]
    )
    report.add_table("Nothing", ("reason", "documents"), [])
    report.add_examples("Examples", [("a & b", "줄 하나\n줄 둘")])
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "12,345" in page
    assert 'lang="ko"' in page
    assert re.findall(r"<th( class=n)?>(\w+)", page) == [
        ("", "reason"), (" class=n", "documents"), ("", "reason"), ("", "documents"),
    ]  # fmt: skip
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["Dropped"][0] == {"reason": "<script>alert(1)</script>", "documents": 12_345}
    assert data["Nothing"] == []


def test_a_notice_stands_above_a_written_report_and_goes_again(tmp_path: Path) -> None:
    put_notice(tmp_path, "nothing to write on")
    assert not list(tmp_path.iterdir())
    report = Report("A </h1> title")
    report.add_text("Result", "fine")
    report.write(tmp_path)
    files = [tmp_path / name for name in ("report.html", "report.json")]
    before = [file.read_text(encoding="utf-8") for file in files]
    for text in ("first", "taken <back>"):
        put_notice(tmp_path, text)
    page = files[0].read_text(encoding="utf-8")
    assert "first" not in page
    assert page.index("taken &lt;back&gt;") < page.index("Result")
    assert json.loads(files[1].read_text(encoding="utf-8"))["notice"] == "taken <back>"
    put_notice(tmp_path, None)
    assert [file.read_text(encoding="utf-8") for file in files] == before
