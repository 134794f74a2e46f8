"""Which addresses are asked for, and what comes back of an honest one; attacks are in tests/faults/test_fetch_faults.py."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate_for
from odd_web import page, says, sends_to, web

from hanok.errors import ConfigError, FetchError
from hanok.guard.fetch import Fetcher
from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.guard.targets import IpAddress, Refused, next_target, target_of, why_not_public

SELF = ipaddress.ip_address("127.0.0.1")


def here_only(address: IpAddress) -> str:
    """127.0.0.1 plays the internet; everything else is judged as it is."""
    return "" if address == SELF else why_not_public(address)


def fetcher(port: int, **options: Any) -> Fetcher:
    options = {"resolve": lambda _host, _port: ["127.0.0.1"], "why_not": here_only, **options}
    return Fetcher(ports=frozenset({port}), **options)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://example.com", "http://example.com/"),
        ("https://Example.COM:443/a b".replace(" ", "%20"), "https://example.com/a%20b"),
        ("http://example.com:443/x?q=가&r=1#part", "http://example.com:443/x?q=%EA%B0%80&r=1"),
        ("https://한국.kr/소식", "https://xn--3e0b707e.kr/%EC%86%8C%EC%8B%9D"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
        ("http://[2606:4700:4700::1111]/", "http://[2606:4700:4700::1111]/"),
        ("http://example.com./", "http://example.com/"),
    ],
)
def test_an_address_and_what_is_asked(url: str, asked: str) -> None:
    assert target_of(url).url == asked


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "data:text/html,x", "//example.com/", "example.com",
        "http://", "http:///x", "http://user@example.com/", "http://user:word@example.com/", "http://example.com@10.0.0.1/",
        "http://example.com:8080/", "http://example.com:22/", "http://example.com:/", "http://example.com:99999/",
        "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://0x7f.1/", "http://1.2.3.4.5/",
        "http://256.1.1.1/", "http://①②⑦.0.0.1/", "http://１２７.0.0.1/", "http://127。0。0。1/", "http://ⓔxample.com/",
        "http://exam\u200bple.com/", "http://example.com\\@10.0.0.1/", "http://example.com\t/", "http://exa mple.com/",
        "http://%31%32%37.0.0.1/", "http://[::1%25lo]/", "http://[127.0.0.1]/", "http://straße.de/", "http://-a.com/",
        "http://a..com/", "http://" + "a" * 64 + ".com/", "http://example.com/" + "a" * 2048, "http://exa\nmple.com/",
    ],
)  # fmt: skip
def test_spellings_that_are_refused(url: str) -> None:
    with pytest.raises(Refused):
        target_of(url)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1",
        "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "100::1",
        "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
        "ff02::1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1", "4000::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert why_not_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1"]
)
def test_addresses_that_are(address: str) -> None:
    assert why_not_public(ipaddress.ip_address(address)) == ""


def test_lists_of_hosts() -> None:
    hosts = ("example.com", "*.example.org")
    assert target_of("http://example.com/", hosts=hosts).host == "example.com"
    assert target_of("http://a.b.example.org/", hosts=hosts).host == "a.b.example.org"
    for host in ("a.example.com", "example.org", "notexample.com", "example.com.evil.kr", "8.8.8.8"):
        with pytest.raises(Refused, match="list of hosts"):
            target_of(f"http://{host}/", hosts=hosts)


def test_redirects_are_judged_anew() -> None:
    start = target_of("https://example.com/a/b?c")
    assert next_target(start, "../d").url == "https://example.com/d"
    assert next_target(start, "//other.com/x").url == "https://other.com/x"
    for location in (
        "http://example.com/",
        "ftp://example.com/",
        "https://127.1/",
        "https://u@example.com/",
        "//[::1",
    ):
        with pytest.raises(Refused):
            next_target(start, location)


def test_what_comes_back() -> None:
    body = "안녕".encode("euc-kr")
    with web(says(page(body, "Content-Type: text/plain; charset=euc-kr"))) as site:
        fetched = fetcher(site.port).fetch(site.url("/x?y=1", host="example.com"))
        assert (fetched.status, fetched.text, fetched.body) == (200, "안녕", body)
        assert fetched.url == f"http://example.com:{site.port}/x?y=1"
        head = site.heads[0]
        assert head.startswith("GET /x?y=1 HTTP/1.1\r\n")
        assert f"Host: example.com:{site.port}\r\n" in head
        assert not any(name in head.lower() for name in ("cookie", "authorization", "referer", "proxy"))
    with web(says(page(gzip.compress(b"a" * 5000), "Content-Encoding: gzip"))) as site:
        assert fetcher(site.port).fetch(site.url()).body == b"a" * 5000
    chunked = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    with web(says(chunked)) as site:
        fetched = fetcher(site.port).fetch(site.url())
        assert (fetched.status, fetched.body) == (404, b"abcde")


def test_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with web(says(page(b"proxied"))) as proxy, web(says(page(b"direct"))) as site:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        assert fetcher(site.port).fetch(site.url(host="example.com")).body == b"direct"
        assert proxy.connections == 0


def test_redirects_up_to_three() -> None:
    with web(sends_to("/1", "/2", "/3")) as site:
        assert fetcher(site.port).fetch(site.url("/0")).body == b"arrived"
    with web(sends_to("/1", "/2", "/3", "/4")) as site, pytest.raises(FetchError):
        fetcher(site.port).fetch(site.url("/0"))


def test_one_for_both_worlds() -> None:
    with web(says(page(b"hello"))) as site:
        one = fetcher(site.port)
        assert asyncio.run(one.fetch_async(site.url())) == one.fetch(site.url())


def test_certificates_are_of_the_name_that_was_asked(tmp_path: Path) -> None:
    certificate, key = certificate_for("example.com", tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with web(says(page(b"secret")), tls=server) as site:
        one = fetcher(site.port, tls=trusting)
        assert one.fetch(site.url(host="example.com", scheme="https")).body == b"secret"
        assert names == ["example.com"]
        for other in (one, fetcher(site.port)):  # another name; a certificate of nobody's
            host = "example.org" if other is one else "example.com"
            with pytest.raises(FetchError):
                other.fetch(site.url(host=host, scheme="https"))
        assert len(site.heads) == 1


def test_policy() -> None:
    text = 'format = 1\n[rules.fetch]\nhosts = ["*.example.com"]\nports = [443]\nsize = 1000\nseconds = 3\nredirects = 0\n'
    book = Guard(parse_policy(text)).of("default")
    assert book.fetcher is not None
    assert (book.fetcher.size, book.fetcher.redirects, book.fetcher.ports) == (1000, 0, frozenset({443}))
    assert not book.reads
    assert not book.watches
    assert Guard(parse_policy("format = 1\n")).of("default").fetcher is None
    for wrong in (
        "ports = [0]",
        'ports = ["80"]',
        "ports = []",
        "seconds = 0",
        'hosts = ["http://a"]',
        "size = 0",
    ):
        with pytest.raises(ConfigError, match=r"rules\.fetch"):
            parse_policy(f"format = 1\n[rules.fetch]\n{wrong}\n")
