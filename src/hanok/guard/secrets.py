"""Keys and passwords: by the fixed beginnings that services give them, by private-key blocks, and by what they are assigned to.

The forms are public knowledge; a value without a fixed form counts only where a word such as "password" stands before it and
where it is as disordered as a random string is (Shannon entropy per character). Right behind letters, a form whose beginning
ends words too ("task-") counts only where what follows it is no word.
"""

from __future__ import annotations

import bisect
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from hanok.guard.begun import run_from
from hanok.guard.verdicts import Action, Finding

_B, _E = (
    r"(?<![A-Za-z0-9_])",
    r"(?![A-Za-z0-9_-])",
)  # not \\b: a key may stand right behind a letter of another script
_KEYS: dict[str, tuple[str, str]] = {  # how they begin, and how they go on
    "aws-access-key": (r"(?:AKIA|ASIA|ABIA|ACCA)", r"[A-Z2-7]{16}" + _E),
    "github-token": (
        r"(?:gh[pousr]|github_pat)_",
        r"(?:(?<=gh._)[A-Za-z0-9]{36,255}|(?<=pat_)[A-Za-z0-9_]{60,255})" + _E,
    ),
    "gitlab-token": (r"gl(?:pat|dt|rt|soat)-", r"[A-Za-z0-9_-]{20,64}" + _E),
    "slack-token": (r"xox[abeoprs]-", r"[A-Za-z0-9-]{10,255}" + _E),
    "google-api-key": (r"AIza", r"[A-Za-z0-9_-]{35}" + _E),
    "google-oauth": (r"ya29\.", r"[A-Za-z0-9_-]{20,512}" + _E),
    "stripe-key": (r"[rs]k_(?:live|test|prod)_", r"[A-Za-z0-9]{10,99}" + _E),
    "openai-key": (r"sk-(?:proj-|svcacct-|admin-)?", r"[A-Za-z0-9_-]{20,200}" + _E),
    "hugging-face-token": (r"(?:hf|api_org)_", r"[A-Za-z]{34}" + _E),
    "npm-token": (r"npm_", r"[A-Za-z0-9]{36}" + _E),
    "pypi-token": (r"pypi-AgE", r"[A-Za-z0-9_-]{50,1000}" + _E),
    "sendgrid-key": (r"SG\.", r"[A-Za-z0-9_=.-]{66}" + _E),
    "twilio-key": (r"SK", r"[0-9a-f]{32}" + _E),
    "shopify-token": (r"shp(?:at|ca|pa|ss)_", r"[0-9a-fA-F]{32}" + _E),
    "digitalocean-token": (r"do[opr]_v1_", r"[0-9a-f]{64}" + _E),
    "databricks-token": (r"dapi", r"[0-9a-f]{32}(?:-\d)?" + _E),
    "grafana-token": (r"gl(?:c|sa)_", r"[A-Za-z0-9+/_=]{32,400}"),
    "vault-token": (r"hv[sb]\.", r"[A-Za-z0-9_-]{24,300}" + _E),
    "age-key": (r"AGE-SECRET-KEY-1", r"[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}" + _E),
    "hanok-key": (r"hk_", r"[A-Za-z0-9]{6,40}_[A-Za-z0-9_-]{32,100}" + _E),
}
_FORMS: dict[str, str] = {name: _B + begin + rest for name, (begin, rest) in _KEYS.items()} | {
    "slack-webhook": r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9+/]{40,60}",
    "mailchimp-key": r"(?<![0-9a-f])[0-9a-f]{32}-us\d{1,2}" + _E,
    "telegram-token": r"(?<!\d)\d{5,16}:A[A-Za-z0-9_-]{34}" + _E,
    "discord-token": _B + r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}" + _E,
    "url-password": r"(?<=[A-Za-z0-9+.-])://[^\s:/@]{1,64}:(?P<url>[^\s:/@]{4,128})@",
}
_FIXED = re.compile("|".join(f"(?P<{name.replace('-', '_')}>{form})" for name, form in _FORMS.items()))
_GLUED = re.compile(
    "(?<=[A-Za-z0-9_])(?="
    + "|".join(f"(?P<{name.replace('-', '_')}>{begin})" for name, (begin, _) in _KEYS.items())
    + ")"
)
_RESTS = {name.replace("-", "_"): re.compile(rest) for name, (_, rest) in _KEYS.items()}
_WORDS_END_SO = frozenset((  # "task-", "self_", "run_npm_", "disk_test_": right behind letters they tell nothing
    "aws_access_key", "github_token", "gitlab_token", "stripe_key", "openai_key", "hugging_face_token", "npm_token",
    "sendgrid_key", "grafana_token", "vault_token", "hanok_key",
))  # fmt: skip
_SIGNED = re.compile(
    r"(?<=\.)eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}" + _E
)  # a token's second and third part
_LEAST_HEAD, _LONGEST_HEAD = 13, 2003  # characters of the first one
_BEGIN = re.compile(r"-----BEGIN (?:[A-Z]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END (?:[A-Z]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_LONGEST_BLOCK = 16_384
BLOCK_START = re.compile(
    r"-----(?:B(?:E(?:G(?:I(?:N(?: [A-Z ]{0,48}(?:-{0,5})?)?)?)?)?)?)?\Z|-----BEGIN [A-Z ]{0,48}KEY"
)
_LAST_RUN = re.compile(r"[A-Za-z0-9_.-]*")
_HEAD_RUN = re.compile(r"[A-Za-z0-9_-]*")
_URL_CUT = re.compile(  # before its password has ended, which may have letters of any script
    r"(?<=[A-Za-z0-9+.-])://[^\s:/@]{0,64}(?::[^\s:/@]{0,128})?\Z"
)
_LONGEST_TOKEN, _LONGEST_URL = 7200, 224
_NAMED = re.compile(
    r"(?i)(?:api[_ -]?key|secret|token|passwd|password|pwd|credential|access[_ -]?key|비밀번호|암호|인증키|비밀키|토큰)"
    r"[\w .\"'-]{0,12}?(?:=|:|=>|\bis\b|은|는|이|가)\s{0,2}[\"'`]?(?P<value>[A-Za-z0-9+/_.~!@#$%^&*-]{8,200})"
)
_WORDY = re.compile(
    r"(?i)^(?:[a-z]+|[\d.]+|x+|\*+|your[_-].*|example.*|changeme|placeholder|<.*|\$\{?.*|%.*|null|none|true|false)$"
)
_RUN = re.compile(r"[A-Za-z0-9_]{12,}")
_NUMBER_WITHIN = re.compile(r"\d[A-Za-z]")
_ENTROPY = 3.2  # bits a character; of English words run together about 3, of random letters and digits of this length above 3.5
_HINT = re.compile(
    r"AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat|gl[pdrs]|xox|hooks\.slack|AIza|ya29|k_live|k_test|k_prod|sk-|hf_|api_org|npm_|pypi-|SG\.|SK[0-9a-f]|-us\d"
    r"|:A[A-Za-z0-9]|[MNO][A-Za-z0-9_-]{23}|shp|do[opr]_v1|dapi|glc_|hv[sb]\.|AGE-|eyJ|hk_|://|-----BEGIN"
    r"|(?i:key|secret|token|passw|pwd|credential|비밀|암호|인증키|토큰)"
)


class Secrets:
    """A rule."""

    opening = 4

    def __init__(self, action: Action = "redact", *, name: str = "secrets") -> None:
        self.name = name
        self.action: Action = action

    def find(self, text: str) -> Iterator[Finding]:
        if not _HINT.search(text):
            return
        for start, end, _ in _blocks(text):
            yield self._finding(start, end, "private-key")
        behind = 0
        for start, end, kind in sorted([*_fixed(text), *_glued(text)], key=lambda one: (one[0], -one[1])):
            if end > behind:  # not within another
                behind = end
                yield self._finding(start, end, kind)
        for match in _NAMED.finditer(text):
            value = match["value"].rstrip(".,!?")
            if len(value) >= 8 and not _WORDY.match(value) and _disordered(value):
                yield self._finding(match.start("value"), match.start("value") + len(value), "named-secret")

    def open_from(self, text: str) -> int:
        """Where something begins that the end of the text may have cut."""
        whole = iter([(start, end) for start, end, ended in _blocks(text) if ended])
        start, end = next(whole, (len(text), len(text)))
        for match in BLOCK_START.finditer(text):
            while end <= match.start() and end < len(text):
                start, end = next(whole, (len(text), len(text)))
            if not start <= match.start() < end and len(text) - match.start() <= _LONGEST_BLOCK:
                return min(match.start(), _cut_from(_URL_CUT, text, _LONGEST_URL))
        return _cut_from(_URL_CUT, text, _LONGEST_URL)

    def open_within(self, text: str) -> int:
        """A form that has its least length is a finding, which is held back whole; others are shorter than the reach, or cut."""
        return min(self.open_from(text), run_from(text), _token_from(text))

    def _finding(self, start: int, end: int, kind: str) -> Finding:
        return Finding(self.name, start, end, self.action, kind, "[SECRET]")


def _fixed(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and kind of each known form that stands by itself, and of tokens of three parts."""
    for match in _FIXED.finditer(text):
        kind = next(name for name in _FORMS if match[name.replace("-", "_")])
        yield *(match.span("url") if kind == "url-password" else match.span()), kind
    for match in _SIGNED.finditer(text):
        begin = _head_from(text, match.start() - 1)
        if match.start() - 1 - begin >= _LEAST_HEAD:
            yield begin, match.end(), "jwt"


def _glued(text: str) -> Iterator[tuple[int, int, str]]:
    """Those that begin in the middle of a word."""
    for match in _GLUED.finditer(text):
        name = str(match.lastgroup)
        rest = _RESTS[name].match(text, match.end(name))
        if rest is not None and (name not in _WORDS_END_SO or _no_word(rest[0], name)):
            yield match.start(), rest.end(), name.replace("_", "-")


def _no_word(value: str, name: str) -> bool:
    """Whether it goes to and fro between capitals, small letters and digits, as no word or name does, within 12 characters or
    more; a number at the end is a name's too. Keys of Amazon have no small letters, and those of Hugging Face no digits."""
    if name == "aws_access_key":
        return any(map(str.isdigit, value))
    for run in _RUN.findall(value):
        mixed = run.lower() != run != run.upper()
        if not mixed or not (name == "hugging_face_token" or _NUMBER_WITHIN.search(run)):
            continue
        kinds = [str.islower(c) + 2 * str.isupper(c) for c in run if c != "_"]
        if 3 * sum(one != other for one, other in pairwise(kinds)) >= len(run):
            return True
    return False


def _head_from(text: str, end: int) -> int:
    """Where the first part of a token begins that ends there; `end` if there is none."""
    near = text[max(0, end - _LONGEST_HEAD) : end][::-1]
    run = _HEAD_RUN.match(near)
    place = text.find("eyJ", end - len(run[0] if run else ""), end)
    return end if place < 0 else place


def _token_from(text: str) -> int:
    """Where a token of three parts may have begun that the end of the text has cut."""
    near = text[-_LONGEST_TOKEN:][::-1]
    run = _LAST_RUN.match(near)
    parts = (run[0] if run else "").split(".")[:3]
    place = text.find("eyJ", len(text) - len(".".join(parts)))
    return len(text) if place < 0 else place


def _cut_from(form: re.Pattern[str], text: str, longest: int) -> int:
    found = form.search(text, max(0, len(text) - longest))
    return len(text) if found is None else found.start()


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """Start and end of each private key, and whether its end is there; each character is looked at once."""
    ends = [match.end() for match in _END.finditer(text)] if "-----END" in text else []
    behind = 0
    for match in _BEGIN.finditer(text):
        if match.start() < behind:
            continue
        place = bisect.bisect_left(ends, match.end() + 1)
        if place < len(ends) and ends[place] - match.end() <= _LONGEST_BLOCK + 64:
            behind = ends[place]
            yield match.start(), behind, True
        elif len(text) - match.end() <= _LONGEST_BLOCK:
            yield match.start(), len(text), False
            return


def _disordered(value: str) -> bool:
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    mixed = sum(
        any(test(c) for c in value)
        for test in (str.islower, str.isupper, str.isdigit, lambda c: not c.isalnum())
    )
    return entropy >= _ENTROPY and mixed >= 2
