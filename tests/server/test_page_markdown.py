"""The page's Markdown: what is drawn, and that a model's words stay words."""

from __future__ import annotations

import json
from typing import Any

import pytest

DRAW = """import('/lib/markdown.js').then((m) => { const box = document.createElement('div');
  box.append(m.markdown(TEXT, CITE)); return [...box.childNodes].map((n) => shape(n)).join('');
  function shape(n) { return n.nodeType === 3 ? n.data : `<${n.localName}>${[...n.childNodes].map(shape).join('')}</>`; } })"""


def draw(page: Any, text: str, cite: str = "{}") -> str:
    return page.js(DRAW.replace("TEXT", json.dumps(text)).replace("CITE", cite))


@pytest.fixture(scope="module")
def opened(taught: Any, page: Any) -> Any:
    page.open(taught.url)
    return page


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("one\ntwo\n\nthree", "<p>one<br></>two</><p>three</>"),
        ("# A\n### B\n# C", "<h3>A</><h4>B</><h3>C</>"),
        ("**bold** *it* ~~gone~~ `co*de*`", "<p><strong>bold</> <em>it</> <s>gone</> <code>co*de*</></>"),
        ("**굵은**글씨 snake_case_name 2*3*4", "<p><strong>굵은</>글씨 snake_case_name 2*3*4</>"),
        ("*강조*는 **2**3 509*3: 9*3=27, 0*3", "<p><em>강조</>는 **2**3 509*3: 9*3=27, 0*3</>"),
        ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</></></><li>c</></>"),
        ("1. a\n2. b", "<ol><li>a</><li>b</></>"),
        ("text\n- a", "<p>text</><ul><li>a</></>"),
        ("> a\n> b", "<blockquote><p>a<br></>b</></>"),
        ("---", "<hr></>"),
        (r"\*not\* 1 * 2 * 3", "<p>*not* 1 * 2 * 3</>"),
        ("<b>x</b> &amp; <script>1</script>", "<p><b>x</b> &amp; <script>1</script></>"),
        ("[go](javascript:alert(1)) [x](data:text/html,1)", "<p>go x</>"),
        ("[rel](/admin/keys)", "<p>rel</>"),
        ("see [1] and [2, 3]", "<p>see [1] and [2, 3]</>"),
        ("", ""),
    ],
)
def test_what_is_drawn(opened: Any, text: str, shape: str) -> None:
    assert draw(opened, text) == shape


def test_tables_and_code_are_drawn_whole(opened: Any) -> None:
    table = draw(opened, "| a | b |\n|---|--:|\n| 1 | `x\\|y` |\n| 2 |")
    assert table == (
        "<div><table><thead><tr><th>a</><th>b</></></><tbody><tr><td>1</><td><code>x|y</></></><tr><td>2</><td></></></></></>"
    )
    code = draw(opened, "```py\n<b>**x**\n\n# y\n```\nafter")
    assert "<pre><code><b>**x**\n\n# y</></>" in code
    assert code.endswith("<p>after</>")
    assert "<pre><code>half" in draw(opened, "```\nhalf")  # as it streams


def test_a_link_is_a_button_that_shows_its_address_first(opened: Any) -> None:
    opened.js("""import('/lib/markdown.js').then((m) => { document.getElementById('view').append(
      m.markdown('[bank](https://example.org/steal) ![pic](https://example.org/p.png) https://example.org/a.'));
      window.opened = []; window.open = (...all) => window.opened.push(all); })""")
    assert opened.js("document.querySelectorAll('#view a[href], #view img').length") == 0
    labels = opened.js("[...document.querySelectorAll('#view .link')].map((n) => n.textContent)")
    assert labels == ["bank", "Picture: pic", "https://example.org/a"]
    opened.js("document.querySelector('#view .link').click(), 1")
    opened.until("!!document.querySelector('dialog .address')")
    assert opened.js("document.querySelector('dialog .address').textContent") == "https://example.org/steal"
    opened.key("Escape", code=27)
    opened.until("!document.querySelector('dialog')")
    assert opened.js("window.opened.length") == 0
    opened.js(
        "document.querySelector('#view .link').click(), document.querySelector('dialog .primary').click(), 1"
    )
    opened.until("window.opened.length === 1")
    assert opened.js("window.opened[0]") == ["https://example.org/steal", "_blank", "noopener,noreferrer"]


def test_brackets_become_citations_where_the_answer_has_them(opened: Any) -> None:
    cite = "{cite: (inside) => inside === '1' ? [document.createElement('button')] : null}"
    assert draw(opened, "so [1] but [7]", cite) == "<p>so <button></> but [7]</>"


def test_hostile_lengths_take_no_time(opened: Any) -> None:
    texts = [
        "*" * 20_000,
        "[" * 20_000,
        "> " * 5_000 + "x",
        "`" * 9_999,
        "- " * 3_000,
        "|" * 20_000 + "\n|-|",
        "_a" * 9_000,
    ]
    spent = opened.js(
        f"""import('/lib/markdown.js').then((m) => {json.dumps(texts)}.map((text) => {{
          const start = performance.now(); m.markdown(text); return performance.now() - start; }}))"""
    )
    assert max(spent) < 3_000, spent  # milliseconds, on a busy machine
