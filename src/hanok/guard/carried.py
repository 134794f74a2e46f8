"""Whether an address carries away what the model was told in private: words of the system prompt, of documents, of results of
tools or of earlier turns of the user, as they are or in some code.

    private   those parts, without what the user said last: who asks for a link to something names it
    carried   16 letters or digits in a row of both, whatever signs stand between them

An address that stands in the private text tells its own host nothing new; the same words sent to another host do.

    N  letters and digits of a text
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from urllib.parse import unquote

import numpy as np

from hanok.guard.addresses import leads_to
from hanok.guard.provenance import Origin, Part

LEAST = 16  # letters and digits in a row
_PRIVATE: frozenset[Origin] = frozenset({"system", "tool", "document", "user"})
_SIGNS = re.compile(r"[\W_]+")
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>`]+|(?<![\w.@-])(?:[a-z0-9][a-z0-9-]{0,62}\.){1,8}[a-z]{2,24}(?:[:/?#][^\s\"'<>`]*)?",
    re.I,
)
_VALUE = re.compile(r"=([^&;#]*)")
_SEPARATORS = re.compile(r"[^A-Za-z0-9+=]+")
_HEX = re.compile(r"[0-9A-Fa-f]{16,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}")
_BASE32 = re.compile(r"[A-Za-z2-7]{16,}")
_URL_SAFE = str.maketrans("-_", "+/")
_LAYERS = 3  # of %25-codes, and of codes in codes
_MOST = 64  # pieces that are decoded in one layer
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Private:
    """What an answer must not carry out. It is only read once an address is to be judged.

    Args:
        parts: what the model has read; the user's last turn is not private.
    """

    def __init__(self, parts: Sequence[Part] = (), *, hidden: str = "", least: int = LEAST) -> None:
        self._parts, self._hidden, self._least = parts, hidden, least
        self._known: dict[str, np.ndarray] | None = (
            None  # by the host of the address that they stand in; "" for none
        )

    def carried_in(self, address: str) -> bool:
        """Also where it is written in base64, base32, hex or %-codes, or spread over labels, steps and values."""
        known = self._read()
        if not known:
            return False
        target = leads_to(address)
        host = _bare_host(target.host)
        runs = [_runs(_squeezed(reading), self._least) for reading in _readings(target.rest, target.host)]
        wanted = np.concatenate([*runs, np.empty(0, dtype=np.uint64)])
        wanted = wanted[~_stand_in(wanted, self._said)]
        return any(
            _stand_in(wanted, hashes).any() for where, hashes in known.items() if not where or where != host
        )

    def _read(self) -> dict[str, np.ndarray]:
        if self._known is None:
            last = max((part.where for part in self._parts if part.origin == "user"), key=_turn, default="")
            own = [part.text for part in self._parts if part.origin == "user" and part.where == last]
            texts = [
                part.text for part in self._parts
                if part.origin in _PRIVATE and not (part.origin == "user" and part.where == last)
            ]  # fmt: skip
            self._said = _hashes(own, self._least)
            found: dict[str, list[str]] = {"": []}
            for text in (*texts, self._hidden):
                found[""].append(_ADDRESS.sub("\n", text))
                for match in _ADDRESS.finditer(text):
                    found.setdefault(_bare_host(leads_to(_with_scheme(match[0])).host), []).append(match[0])
            hashed = {host: _hashes(several, self._least) for host, several in found.items()}
            self._known = {host: hashes for host, hashes in hashed.items() if len(hashes)}
        return self._known


def _turn(where: str) -> int:
    number = where.rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"//{address}"


def _bare_host(host: str) -> str:
    return host.removeprefix("www.")


def _hashes(texts: Sequence[str], least: int) -> np.ndarray:
    """Sorted."""
    every = [_runs(_squeezed(text), least) for text in texts]
    return np.sort(np.concatenate([*every, np.empty(0, dtype=np.uint64)]))


def _stand_in(wanted: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which of them do."""
    if not len(ordered):
        return np.zeros(len(wanted), dtype=bool)
    places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return ordered[places] == wanted


def _runs(text: str, least: int) -> np.ndarray:
    """A hash of each `least` characters in a row: [max(0, N - least + 1)] uint64, a polynomial in the code points."""
    codes_N = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = len(codes_N) - least + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for place in range(least):
        total = total * _FACTOR + codes_N[place : place + count] + np.uint64(1)
    return total ^ (total >> np.uint64(31))


def _squeezed(text: str) -> str:
    """Letters and digits alone, in one case."""
    return _SIGNS.sub("", unicodedata.normalize("NFKC", text).casefold())


def _readings(rest: str, host: str) -> Iterator[str]:
    """What somebody at the other end could make of an address. The host's own name counts where it has more than a name needs."""
    labels = host.rsplit(".", 2)[0] if host.count(".") > 1 else ""
    text = html.unescape(rest)
    layers = [text]
    for _ in range(_LAYERS):
        if (plain := unquote(layers[-1], errors="replace")) == layers[-1]:
            break
        layers.append(plain)
    values = "".join(_VALUE.findall(layers[-1]))
    for one in (*layers, values, labels):
        if one:
            yield one
    codes = list(
        dict.fromkeys((layers[-1], values, _SEPARATORS.sub("", layers[-1]), labels.replace(".", "")))
    )
    for _ in range(_LAYERS):
        pieces = dict.fromkeys(piece for one in codes for piece in islice(_decoded(one), _MOST))
        codes = list(islice(pieces, _MOST))
        yield from codes


def _decoded(text: str) -> Iterator[str]:
    """Whatever can be read in it as bytes, from each place in the rhythm of its code."""
    for match in _HEX.finditer(text):
        for start in (0, 1):
            digits = match[0][start:]
            yield _text(bytes.fromhex(digits[: len(digits) // 2 * 2]))
    for match in _BASE64.finditer(text):
        run = match[0].translate(_URL_SAFE)
        for start in range(4):
            digits = run[start : -1 if (len(run) - start) % 4 == 1 else None]
            yield _text(base64.b64decode(digits + "=" * (-len(digits) % 4)))
    for match in _BASE32.finditer(text):
        run = match[0].upper()
        for start in range(8):
            digits = run[start:]
            try:
                yield _text(base64.b32decode(digits[: len(digits) // 8 * 8]))
            except binascii.Error:
                break


def _text(raw: bytes) -> str:
    return raw.decode(errors="ignore")
