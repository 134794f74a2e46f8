"""Keys and passwords: by the fixed beginnings that services give them, by private-key blocks, and by what they are assigned to.

The forms are public knowledge; a value without a fixed form counts only where a word such as "password" stands before it and
where it is as disordered as a random string is (Shannon entropy per character).
"""

from __future__ import annotations

import bisect
import math
import re
from collections import Counter
from collections.abc import Iterator

from hanok.guard.begun import run_from
from hanok.guard.verdicts import Action, Finding

_B, _E = (
    r"(?<![A-Za-z0-9_])",
    r"(?![A-Za-z0-9_-])",
)  # not \\b: a key may stand right behind a letter of another script
_FORMS: dict[str, str] = {
    "aws-access-key": _B + r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}" + _E,
    "github-token": _B + r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})" + _E,
    "gitlab-token": _B + r"gl(?:pat|dt|rt|soat)-[A-Za-z0-9_-]{20,64}" + _E,
    "slack-token": _B + r"xox[abeoprs]-[A-Za-z0-9-]{10,255}" + _E,
    "slack-webhook": r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9+/]{40,60}",
    "google-api-key": _B + r"AIza[A-Za-z0-9_-]{35}" + _E,
    "google-oauth": _B + r"ya29\.[A-Za-z0-9_-]{20,512}" + _E,
    "stripe-key": _B + r"[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,99}" + _E,
    "openai-key": _B + r"sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,200}" + _E,
    "hugging-face-token": _B + r"(?:hf|api_org)_[A-Za-z]{34}" + _E,
    "npm-token": _B + r"npm_[A-Za-z0-9]{36}" + _E,
    "pypi-token": _B + r"pypi-AgE[A-Za-z0-9_-]{50,1000}" + _E,
    "sendgrid-key": _B + r"SG\.[A-Za-z0-9_=.-]{66}" + _E,
    "twilio-key": _B + r"SK[0-9a-f]{32}" + _E,
    "mailchimp-key": _B + r"[0-9a-f]{32}-us\d{1,2}" + _E,
    "telegram-token": _B + r"\d{5,16}:A[A-Za-z0-9_-]{34}" + _E,
    "discord-token": _B + r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}" + _E,
    "shopify-token": _B + r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}" + _E,
    "digitalocean-token": _B + r"do[opr]_v1_[0-9a-f]{64}" + _E,
    "databricks-token": _B + r"dapi[0-9a-f]{32}(?:-\d)?" + _E,
    "grafana-token": _B + r"gl(?:c|sa)_[A-Za-z0-9+/_=]{32,400}",
    "vault-token": _B + r"hv[sb]\.[A-Za-z0-9_-]{24,300}" + _E,
    "age-key": _B + r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}" + _E,
    "jwt": _B + r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}" + _E,
    "hanok-key": _B + r"hk_[A-Za-z0-9]{6,40}_[A-Za-z0-9_-]{32,100}" + _E,
    "url-password": _B + r"[a-z][a-z0-9+.-]{1,12}://[^\s:/@]{1,64}:(?P<url>[^\s:/@]{4,128})@",
}
_FIXED = re.compile("|".join(f"(?P<{name.replace('-', '_')}>{form})" for name, form in _FORMS.items()))
_BEGIN = re.compile(r"-----BEGIN (?:[A-Z]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END (?:[A-Z]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_LONGEST_BLOCK = 16_384
BLOCK_START = re.compile(
    r"-----(?:B(?:E(?:G(?:I(?:N(?: [A-Z ]{0,48}(?:-{0,5})?)?)?)?)?)?)?\Z|-----BEGIN [A-Z ]{0,48}KEY"
)
_TOKEN_CUT = re.compile(  # of three parts
    _B + r"eyJ[A-Za-z0-9_-]{0,2000}(?:\.[A-Za-z0-9_-]{0,4003}(?:\.[A-Za-z0-9_-]{0,1000})?)?\Z"
)
_URL_CUT = re.compile(  # before its password has ended, which may have letters of any script
    _B + r"[a-z][a-z0-9+.-]{1,12}://[^\s:/@]{0,64}(?::[^\s:/@]{0,128})?\Z"
)
_LONGEST_TOKEN, _LONGEST_URL = 7200, 224
_NAMED = re.compile(
    r"(?i)(?:api[_ -]?key|secret|token|passwd|password|pwd|credential|access[_ -]?key|비밀번호|암호|인증키|비밀키|토큰)"
    r"[\w .\"'-]{0,12}?(?:=|:|=>|\bis\b|은|는|이|가)\s{0,2}[\"'`]?(?P<value>[A-Za-z0-9+/_.~!@#$%^&*-]{8,200})"
)
_WORDY = re.compile(
    r"(?i)^(?:[a-z]+|[\d.]+|x+|\*+|your[_-].*|example.*|changeme|placeholder|<.*|\$\{?.*|%.*|null|none|true|false)$"
)
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
        for match in _FIXED.finditer(text):
            kind = next(name for name in _FORMS if match[name.replace("-", "_")])
            start, end = match.span("url") if kind == "url-password" else match.span()
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
        return min(self.open_from(text), run_from(text), _cut_from(_TOKEN_CUT, text, _LONGEST_TOKEN))

    def _finding(self, start: int, end: int, kind: str) -> Finding:
        return Finding(self.name, start, end, self.action, kind, "[SECRET]")


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
