"""A report: one self-contained HTML page (tables, examples, plots as inline SVG, light and dark) and the same as JSON."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.artefacts.files import write_atomic
from hanok.reporting.console import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOTICE = "<!-- notice -->"
_STYLE = """
:root{color-scheme:light dark;--ink:#1d2420;--paper:#fbfaf7;--card:#fff;
  --line:#e2ded4;--soft:#6a716c;--accent:#2f6f5e}
@media (prefers-color-scheme:dark){:root{--ink:#e7e9e4;--paper:#171a18;--card:#1f2421;
  --line:#333a36;--soft:#9aa39d;--accent:#7fc3ae}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
  font:16px/1.55 system-ui,"Apple SD Gothic Neo","Noto Sans KR",sans-serif}
main{max-width:1000px;margin:0 auto;padding:2rem 1.2rem 4rem}
h1{font-size:1.7rem;margin:.2rem 0 1.2rem}
h2{font-size:1.15rem;margin:2.2rem 0 .7rem;color:var(--accent)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;background:var(--card);
  border:1px solid var(--line);font-size:.92rem}
th,td{padding:.4rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:600}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr:last-child td{border-bottom:0}
figure{margin:0;background:#fff;border:1px solid var(--line);padding:.6rem;overflow-x:auto}
figure svg{max-width:100%;height:auto}
dl{margin:0}
dt{color:var(--soft);font-size:.85rem;margin-top:.8rem}
dd{margin:.15rem 0 0;
  padding:.5rem .7rem;background:var(--card);border-left:3px solid var(--accent);white-space:pre-wrap;overflow-wrap:anywhere}
a{color:var(--accent)}
p{white-space:pre-wrap;max-width:70ch}
"""


class Report:
    """Collects sections in order and writes `report.html` and `report.json`."""

    def __init__(self, title: str, lang: str = "en") -> None:
        self.title, self.lang = title, lang
        self._sections: list[str] = []
        self._json: dict[str, Any] = {"title": title}

    def add_text(self, title: str, text: str) -> None:
        self._add(title, f"<p>{html.escape(text)}</p>", text)

    def add_table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        numeric = [all(map(_is_number, cells)) for cells in zip(*rows, strict=False)] or [False] * len(
            columns
        )
        head = "".join(
            f"<th{' class=n' if right else ''}>{html.escape(str(column))}</th>"
            for column, right in zip(columns, numeric, strict=False)
        )
        body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
        markup = (
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )
        self._add(title, markup, [dict(zip(columns, row, strict=True)) for row in rows])

    def add_examples(self, title: str, examples: Sequence[tuple[str, str]]) -> None:
        markup = "".join(
            f"<dt>{html.escape(label)}</dt><dd>{html.escape(text)}</dd>" for label, text in examples
        )
        self._add(title, f"<dl>{markup}</dl>", [{"label": label, "text": text} for label, text in examples])

    def add_links(self, title: str, links: Sequence[tuple[str, str]]) -> None:
        """Links relative to the page."""
        items = "".join(f'<li><a href="{html.escape(to)}">{html.escape(text)}</a></li>' for text, to in links)
        self._add(title, f"<ul>{items}</ul>", dict(links))

    def add_plot(self, title: str, figure: Figure) -> None:
        """A matplotlib figure, drawn as SVG on white so that its colours hold in both themes."""
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
        svg = buffer.getvalue()
        self._add(title, f"<figure>{svg[svg.index('<svg') :]}</figure>", None)

    def add_json(self, values: Mapping[str, Any]) -> None:
        """Values that only `report.json` carries."""
        self._json.update(values)

    def write(self, directory: Path) -> None:
        page = (
            f'<!doctype html><html lang="{self.lang}"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style>"
            f"<main><h1>{html.escape(self.title)}</h1>{''.join(self._sections)}</main></html>\n"
        )
        write_atomic(directory / "report.html", page)
        write_atomic(
            directory / "report.json",
            json.dumps(self._json, ensure_ascii=False, indent=2, default=str) + "\n",
        )

    def _add(self, title: str, markup: str, value: Any) -> None:
        self._sections.append(f"<section><h2>{html.escape(title)}</h2>{markup}</section>")
        if value is not None:
            self._json[title] = value


def put_notice(directory: Path, text: str | None) -> None:
    """Above everything of a report that was written before; None takes it away. Nothing where there is no report."""
    page, values = directory / "report.html", directory / "report.json"
    if page.is_file():
        shown = (
            "" if text is None else f"{_NOTICE}<p role=note><strong>{html.escape(text)}</strong></p>{_NOTICE}"
        )
        before, title, behind = page.read_text(encoding="utf-8").partition("</h1>")
        if behind.startswith(_NOTICE):
            behind = behind.split(_NOTICE, 2)[2]
        write_atomic(page, f"{before}{title}{shown}{behind}")
    if values.is_file():
        known = json.loads(values.read_text(encoding="utf-8"))
        known.pop("notice", None)
        known = known if text is None else {"notice": text, **known}
        write_atomic(values, json.dumps(known, ensure_ascii=False, indent=2) + "\n")


def _cell(value: Any) -> str:
    return f"<td{' class=n' if _is_number(value) else ''}>{html.escape(show(value))}</td>"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
