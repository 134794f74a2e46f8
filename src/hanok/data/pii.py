"""Personal data: numbers that name a person, an account or a machine, found by form, checksum and context, and replaced.

Korean: resident and foreigner registration numbers, business and corporate numbers, driving licences, passports, phones,
accounts. International: phones, payment cards, IBANs, US social security numbers, e-mail and IP addresses. What stands for a
number says what it was, in the language of its text: "010-1234-5678로" becomes "[전화번호]로", in English text "[PHONE]".

Digits that continue a number on either side are never cut, and a Korean particle right behind a number is no part of it. Numbers
issued since October 2020 have no checksum, so of a resident number the checksum decides only where its form leaves a doubt:
written without a dash and without a word such as 주민번호 before it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_NAMES = {
    "RESIDENT_NUMBER": "주민등록번호", "FOREIGNER_NUMBER": "외국인등록번호", "BUSINESS_NUMBER": "사업자등록번호",
    "CORPORATE_NUMBER": "법인등록번호", "LICENCE": "운전면허번호", "PASSPORT": "여권번호", "PHONE": "전화번호",
    "CARD": "카드번호", "ACCOUNT": "계좌번호", "EMAIL": "이메일", "IP_ADDRESS": "IP주소", "SSN": "사회보장번호",
}  # fmt: skip
KINDS = tuple(_NAMES)
# no context for a number: other numbers, and the placeholders that they may have become in an earlier pass
_OTHER_DATA = re.compile(
    "|".join(re.escape(f"[{name}]") for pair in _NAMES.items() for name in pair)
    + r"|[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9À-ɏ가-힣-]{1,63}\.)+(?:[A-Za-z]{2,24}|한국)"
    r"|[A-Z]{0,2}\d[\d .·()–—‐‑-]{4,}\d|[A-Z]\d{3}[A-Z]\d{4}|[0-9a-fA-F:]{0,4}:[0-9a-fA-F:]{4,}"
)
_FULLWIDTH = str.maketrans("０１２３４５６７８９－＠．：", "0123456789-@.:")
_ANY_FULLWIDTH = re.compile("[０-９＠]")
_CANDIDATE = re.compile(
    r"\d(?:[-–—‐‑. ·)(/]{0,2}\d){6,}|@|\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}:[0-9a-fA-F]{0,4}:|[A-Z]\d{3}[A-Z]?\d{4}"
)
_HANGUL = re.compile("[가-힣]")
_BEFORE, _AFTER = 24, 16  # characters of context looked at on either side
_D = r"[-–—‐‑. ·]"  # what may stand between the parts of a number
_START, _END = r"(?<![\d.,])(?<!\d[-–/])", r"(?![\d])(?![-–]\d)(?!\.\d)"


@dataclass(frozen=True, slots=True)
class Found:
    """Personal data of a kind, at [start, end) of the text that was searched."""

    kind: str
    start: int
    end: int
    text: str


def redact(text: str) -> tuple[str, list[Found]]:
    """The text with placeholders, and what they stand for. What a placeholder makes visible goes, too: its place is that in the
    text without what was found before it."""
    korean, everything = _HANGUL.search(text) is not None, []
    while found := find(text):
        parts, last = [], 0
        for item in found:
            parts += [text[last : item.start], placeholder(item.kind, korean=korean)]
            last = item.end
        text = "".join(parts) + text[last:]
        everything += found
    return text, everything


def placeholder(kind: str, *, korean: bool) -> str:
    return f"[{_NAMES[kind] if korean else kind}]"


def redact_messages(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Found]]:
    """Contents and the arguments of tool calls."""
    redacted, everything = [], []
    for message in messages:
        message = dict(message)
        if isinstance(message.get("content"), str):
            message["content"], found = redact(message["content"])
            everything += found
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                function = dict(call["function"])
                function["arguments"], found = redact(function["arguments"])
                everything += found
                calls.append({**call, "function": function})
            message["tool_calls"] = calls
        redacted.append(message)
    return redacted, everything


def find(text: str) -> list[Found]:
    """All personal data, in order, none overlapping; where two kinds fit, the one that is looked for first."""
    if _CANDIDATE.search(text) is None and not _ANY_FULLWIDTH.search(text):
        return []
    plain = text.translate(_FULLWIDTH) if _ANY_FULLWIDTH.search(text) else text
    taken = bytearray(len(text))
    found = []
    for kind, start, end in _matches(plain):
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            found.append(Found(kind, start, end, text[start:end]))
    return sorted(found, key=lambda item: item.start)


def _matches(text: str) -> Iterator[tuple[str, int, int]]:
    for kind, pattern, accept in _PATTERNS:
        for match in pattern.finditer(text):
            decided = accept(match, text)
            if decided:
                yield (kind if decided is True else decided), match.start(), match.end()


def _around(match: re.Match[str], text: str) -> tuple[str, str]:
    before, after = (
        text[max(0, match.start() - 8 * _BEFORE) : match.start()],
        text[match.end() : match.end() + 8 * _AFTER],
    )
    return _OTHER_DATA.sub(" ", before)[-_BEFORE:], _OTHER_DATA.sub(" ", after)[:_AFTER]


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


# -- checksums


def luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def resident_checksum(digits: str) -> bool:
    """Of a resident number; of a foreigner's the control digit is two more."""
    total = sum(int(d) * w for d, w in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False))
    control = (11 - total % 11) % 10
    return int(digits[12]) == ((control + 2) % 10 if digits[6] in "5678" else control)


def business_checksum(digits: str) -> bool:
    total = (
        sum(int(d) * w for d, w in zip(digits, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=False))
        + int(digits[8]) * 5 // 10
    )
    return (10 - total % 10) % 10 == int(digits[9])


def corporate_checksum(digits: str) -> bool:
    total = sum(int(d) * w for d, w in zip(digits, (1, 2) * 6, strict=False))
    return (10 - total % 10) % 10 == int(digits[12])


def iban_checksum(iban: str) -> bool:
    turned = iban[4:] + iban[:4]
    return int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


# -- what decides for each kind

_RESIDENT_WORDS = re.compile(r"주민|외국인|등록증|신분증|resident|RRN|ARC\b", re.I)
_NOT_A_PERSON = re.compile(
    r"시퀀스|주문|운송장|송장|바코드|ISBN|사건|모델|법인|계좌|일련|serial|order|invoice|tracking", re.I
)


def _resident(match: re.Match[str], text: str) -> bool | str:
    digits = _digits(match[0])
    kind = "FOREIGNER_NUMBER" if digits[6] in "5678" else "RESIDENT_NUMBER"
    before, after = _around(match, text)
    if _RESIDENT_WORDS.search(before) or _RESIDENT_WORDS.search(after):
        return kind
    if _NOT_A_PERSON.search(before):
        return False
    return kind if match["dash"] or resident_checksum(digits) else False


_CORPORATE_WORDS = re.compile(r"법인")


def _corporate(match: re.Match[str], text: str) -> bool:
    return (
        corporate_checksum(_digits(match[0])) and _CORPORATE_WORDS.search(_around(match, text)[0]) is not None
    )


_BUSINESS_WORDS = re.compile(r"사업자|business|BRN", re.I)


def _business(match: re.Match[str], text: str) -> bool:
    digits = _digits(match[0])
    if not business_checksum(digits):
        return False
    dashed = match[0].count("-") == 2
    before = _around(match, text)[0]
    return _BUSINESS_WORDS.search(before) is not None or (dashed and not _NOT_A_PERSON.search(before))


_CARD_PREFIX = re.compile(r"4|5[1-5]|2[2-7]|3[47]|35|30[0-5]|3[68]|6(?:011|5|4[4-9]|2)|9[0-9]")
_CARD_WORDS = re.compile(r"카드|card|visa|master|amex|결제", re.I)
_LONG_NUMBERS = re.compile(
    r"바코드|ISBN|EAN|운송장|송장|주문|사건|일련|바이트|번째|tracking|barcode|order|serial", re.I
)


def _card(match: re.Match[str], text: str) -> bool:
    digits = _digits(match[0])
    before, after = _around(match, text)
    if (
        not 13 <= len(digits) <= 19
        or not _CARD_PREFIX.match(digits)
        or not luhn(digits)
        or len(set(digits)) == 1
    ):
        return False
    named = _CARD_WORDS.search(before) is not None or _CARD_WORDS.search(after) is not None
    return named or (len(digits) in (15, 16) and not _LONG_NUMBERS.search(before))


_PHONE_WORDS = re.compile(
    r"전화|연락|번호|휴대|핸드폰|팩스|문의|상담|콜센터|☎|📞|\btel\b|phone|\bfax|\bcall\b|mobile|\bcell\b|contact|whatsapp",
    re.I,
)
_NO_PHONE = re.compile(
    r"주문번호|운송장|송장|사건|우편|좌석|시퀀스|ISBN|바코드|모델|계좌|면허|사업자|일련|버전|\bv\.?$|\bver\b|version",
    re.I,
)


def _phone(match: re.Match[str], text: str) -> bool:
    return _NO_PHONE.search(_around(match, text)[0]) is None


def _named_phone(match: re.Match[str], text: str) -> bool:
    before = _around(match, text)[0]
    return _PHONE_WORDS.search(before) is not None and _NO_PHONE.search(before) is None


def _service_phone(match: re.Match[str], text: str) -> bool:
    first, second = (int(part) for part in match[0].split("-"))
    years = first < second <= 2100  # 1592-1598 is a war more often than a telephone
    return _named_phone(match, text) and not (years and "전화" not in _around(match, text)[0])


def _plus_phone(match: re.Match[str], _text: str) -> bool:
    return 8 <= len(_digits(match[0])) <= 15


_ACCOUNT_WORDS = re.compile(
    r"계좌|입금|송금|이체|환불|무통장|account|acct|예금|적금|통장|국민|신한|우리은행|하나은행|농협|기업은행|카카오뱅크|토스|케이뱅크|새마을|"
    r"우체국|수협|신협|SC제일|씨티|대구은행|부산은행|경남은행|광주은행|전북은행|제주은행|은행|\bbank\b",
    re.I,
)


def _account(match: re.Match[str], text: str) -> bool:
    before, after = _around(match, text)
    digits = _digits(match[0])
    if not 10 <= len(digits) <= 16 or _LONG_NUMBERS.search(before):
        return False
    named = _ACCOUNT_WORDS.search(before) is not None or _ACCOUNT_WORDS.search(after) is not None
    return named and re.match(r"\s?(?:원|명|개|건|억|만|주\b|달러)", after) is None


_LICENCE_WORDS = re.compile(r"면허|licen[cs]e", re.I)


def _licence(match: re.Match[str], text: str) -> bool:
    before, after = _around(match, text)
    return _LICENCE_WORDS.search(before) is not None or _LICENCE_WORDS.search(after) is not None


_PASSPORT_WORDS = re.compile(r"여권|passport", re.I)


def _passport(match: re.Match[str], text: str) -> bool:
    before, after = _around(match, text)
    return _PASSPORT_WORDS.search(before) is not None or _PASSPORT_WORDS.search(after) is not None


_VERSION_WORDS = re.compile(
    r"(?:버전|버젼|\bversion|\bver\.?|release|\bv\.?|제|절|항|chapter|section|§)\s*$", re.I
)


def _ipv4(match: re.Match[str], text: str) -> bool:
    parts = match[0].split(".")
    if any(int(part) > 255 or (len(part) > 1 and part[0] == "0") for part in parts):
        return False
    if all(len(part) == 1 for part in parts) and "IP" not in _around(match, text)[0].upper():
        return False  # 1.2.3.4 is a section more often than a machine
    return _VERSION_WORDS.search(_around(match, text)[0]) is None


def _ipv6(match: re.Match[str], _text: str) -> bool:
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return False
    return match[0].count(":") >= 3 and int(address) > 0xFFFF


def _ssn(match: re.Match[str], text: str) -> bool:
    area, group, serial = match[0].split("-")
    if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
        return False
    return re.search(r"SSN|social security", _around(match, text)[0], re.I) is not None


def _iban(match: re.Match[str], _text: str) -> bool:
    plain = match[0].replace(" ", "")
    return 15 <= len(plain) <= 34 and iban_checksum(plain)


def _always(_match: re.Match[str], _text: str) -> bool:
    return True


_DATE = r"\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_AREA = r"0(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|50\d|70|80)"
_S, _E = _START, _END
_RULES: tuple[tuple[str, str, Callable[[re.Match[str], str], bool | str]], ...] = (
    (
        "EMAIL",
        r"[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-À-ɏ가-힣]{1,63}\.)+(?:[A-Za-z]{2,24}|한국)(?![A-Za-z])",
        _always,
    ),
    (
        "ACCOUNT",
        r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])",
        _iban,
    ),
    ("CARD", rf"{_S}\d{{4}}(?:{_D}?\d{{4}}){{3}}{_E}", _card),
    ("CARD", rf"{_S}3[47]\d{{2}}{_D}?\d{{6}}{_D}?\d{{5}}{_E}|{_S}\d{{13,19}}{_E}", _card),
    ("CORPORATE_NUMBER", rf"{_S}\d{{6}}-?\d{{7}}{_E}", _corporate),
    ("RESIDENT_NUMBER", rf"{_S}{_DATE}(?P<dash>\s?[-–—‐‑~·.]\s?|\s)?[1-8]\d{{6}}{_E}", _resident),
    ("LICENCE", rf"{_S}(?:1[1-9]|2[0-8]){_D}?\d{{2}}{_D}?\d{{6}}{_D}?\d{{2}}{_E}", _licence),
    ("PASSPORT", r"(?<![A-Za-z0-9])(?:[A-Z]{1,2}\d{7,8}|[A-Z]\d{3}[A-Z]\d{4})(?![A-Za-z0-9])", _passport),
    ("SSN", rf"{_S}\d{{3}}-\d{{2}}-\d{{4}}{_E}", _ssn),
    (
        "PHONE",
        rf"{_S}(?:\+|00)82{_D}{{0,2}}\(?0?\)?(?:1[016-9]|2|[3-6]\d|70){_D}?\d{{3,4}}{_D}?\d{{4}}{_E}",
        _always,
    ),
    ("PHONE", rf"{_S}(?:\(01[016-9]\)|01[016-9]){_D}{{0,3}}\d{{3,4}}{_D}{{0,3}}\d{{4}}{_E}", _phone),
    ("BUSINESS_NUMBER", rf"{_S}\d{{3}}-?\d{{2}}-?\d{{5}}{_E}", _business),
    ("PHONE", rf"{_S}(?:\({_AREA}\)[-–. ·]?|{_AREA}[-–). ·]{{1,2}})\d{{3,4}}[-–. ·]\d{{4}}{_E}", _phone),
    ("PHONE", rf"{_S}1[568]\d{{2}}-\d{{4}}{_E}", _service_phone),
    ("PHONE", rf"{_S}{_AREA}\d{{7,8}}{_E}", _named_phone),
    ("PHONE", rf"(?<![\w+])\+[1-9]\d{{0,2}}(?:[-. ()]{{1,2}}\d{{2,4}}){{2,4}}{_E}", _plus_phone),
    ("PHONE", rf"(?<![\w+])\+[1-9]\d{{8,14}}{_E}", _plus_phone),
    ("PHONE", rf"{_S}(?:\([2-9]\d{{2}}\) ?|[2-9]\d{{2}}[-. ])\d{{3}}[-. ]\d{{4}}{_E}", _named_phone),
    ("ACCOUNT", rf"{_S}\d{{2,6}}(?:-\d{{2,7}}){{2,3}}{_E}|{_S}\d{{10,14}}{_E}", _account),
    ("IP_ADDRESS", r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d)(?!\.\d)", _ipv4),
    ("IP_ADDRESS", r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])", _ipv6),
)
_PATTERNS = tuple((kind, re.compile(pattern), accept) for kind, pattern, accept in _RULES)
