"""Web servers of a few lines whose answers are written out byte by byte, and count who connects."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[[str, socket.socket], None]
"""Takes the request's head and the connection."""


@dataclass
class Web:
    """`heads`: what was asked; `connections`: how often somebody connected, whether or not they asked."""

    host: str
    port: int
    connections: int = 0
    heads: list[str] = field(default_factory=list)

    def url(self, path: str = "/", *, host: str = "", scheme: str = "http") -> str:
        return f"{scheme}://{host or self.host}:{self.port}{path}"


@contextmanager
def web(
    answer: Answer, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Web]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        listener.settimeout(0.05)
        found, over = Web(host, listener.getsockname()[1]), threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    sock, _ = listener.accept()
                    found.connections += 1
                    threading.Thread(target=talk, args=(sock,), daemon=True).start()

        def talk(sock: socket.socket) -> None:
            sock.settimeout(20)
            with contextlib.suppress(OSError), contextlib.closing(sock), within(sock, tls) as spoken:
                head = b""
                while b"\r\n\r\n" not in head and (piece := spoken.recv(4096)):
                    head += piece
                if head:
                    found.heads.append(head.decode("latin-1"))
                    answer(found.heads[-1], spoken)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join()


def within(sock: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    """A handshake that fails leaves nothing behind: a wrapped socket owns the connection from its beginning."""
    if tls is None:
        return sock
    wrapped = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    try:
        wrapped.do_handshake()
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def page(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def says(answer: bytes) -> Answer:
    return lambda _head, sock: sock.sendall(answer)


def sends_to(*locations: str) -> Answer:
    """To each in turn, by the number that the path ends in, and then a page."""

    def answer(head: str, sock: socket.socket) -> None:
        step = int(head.split(" ")[1].rpartition("/")[2] or 0)
        sock.sendall(
            page(b"arrived")
            if step >= len(locations)
            else page(b"", f"Location: {locations[step]}", status="302 Found")
        )

    return answer
