"""A load client that takes little of the processor it shares with the server: it looks for a few bytes where `load_client` reads
every event. For what a server costs; who compares servers uses `load_client`, which checks more.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from hanok.bench.load_client import Api, Load, Moments, Prompt

_FIRST = re.compile(rb'"content":\s*"[^"]')
_ID = re.compile(rb'"id":\s*"([^"]+)"')
_USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')
_END = b"data: [DONE]"
_LONGEST = 600.0  # seconds of one answer
_TAIL = 4096  # bytes that are looked at again, since what is sought may be cut


def put_light_load(base: str, api: Api, prompts: Sequence[Prompt], *, streams: int, tokens: int) -> Load:
    """As `load_client.put_load`, for events as our server writes them; a connection a stream."""
    return asyncio.run(_put_load(base, api, prompts, streams=streams, tokens=tokens))


def put_bursts(base: str, api: Api, bursts: Sequence[Sequence[Prompt]], *, tokens: int) -> list[Load]:
    """Requests that come all at once, a burst after the other."""
    return [put_light_load(base, api, burst, streams=len(burst), tokens=tokens) for burst in bursts]


async def _put_load(base: str, api: Api, prompts: Sequence[Prompt], *, streams: int, tokens: int) -> Load:
    address = urlsplit(base)
    waiting = iter([_request(api, prompt, tokens, address.netloc) for prompt in prompts])
    start = time.perf_counter()
    streamed = await asyncio.gather(
        *(_stream(address.hostname or "", address.port or 80, waiting, tokens) for _ in range(streams))
    )
    seconds = time.perf_counter() - start
    moments = tuple(one for found in streamed for one in found)
    return Load(seconds, tokens * len(prompts), tuple(one.read - one.sent for one in moments), moments)


def _request(api: Api, prompt: Prompt, tokens: int, host: str) -> bytes:
    body = json.dumps(api.body(prompt, tokens)).encode()
    headers = {
        "Host": host,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **api.headers,
    }
    lines = [f"POST {api.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


async def _stream(host: str, port: int, waiting: Iterator[bytes], tokens: int) -> list[Moments]:
    found: list[Moments] = []
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for request in waiting:
            sent = time.monotonic()
            writer.write(request)
            async with asyncio.timeout(_LONGEST):
                found.append(await _answer(reader, tokens, sent))
    finally:
        writer.close()
        await writer.wait_closed()
    return found


async def _answer(reader: asyncio.StreamReader, tokens: int, sent: float) -> Moments:
    first, name, tail = 0.0, "", b""
    while _END not in tail:
        part = await reader.read(1 << 16)
        if not part:
            raise RuntimeError(f"the server ended the stream: {tail[-500:]!r}")
        tail = tail[-_TAIL:] + part
        if not first and _FIRST.search(tail):
            first = time.monotonic()
            found = _ID.search(tail)
            name = "" if found is None else found[1].decode()
    usage = _USAGE.search(tail)
    if usage is None or int(usage[1]) != tokens:
        raise RuntimeError(f"not {tokens} tokens were answered: {tail[-500:]!r}")
    while not tail.endswith(b"0\r\n\r\n"):  # the end of a chunked body
        tail = tail[-_TAIL:] + await reader.read(1 << 16)
    return Moments(name, sent, first)
