"""Planted personal data is found whole and nothing that only looks like it; what is redacted stays redacted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.data.pii import business_checksum, find, luhn, redact, redact_messages, resident_checksum

RNG = random.Random(7)


def digits(count: int) -> str:
    return "".join(RNG.choices("0123456789", k=count))


def with_last(make: Callable[[str], str], valid: Callable[[str], bool]) -> str:
    return next(number for number in (make(d) for d in "0123456789") if valid(number))


def resident(century: str, *, checked: bool = True) -> str:
    head = f"{RNG.randrange(100):02d}{RNG.randrange(1, 13):02d}{RNG.randrange(1, 29):02d}{RNG.choice(century)}{digits(5)}"
    number = with_last(lambda d: head + d, resident_checksum) if checked else head + digits(1)
    return f"{number[:6]}-{number[6:]}"


def card() -> str:
    head = RNG.choice(("4", "51", "5310", "9410", "3562")) + digits(15)
    number = with_last(lambda d: head[:15] + d, luhn)
    separator = RNG.choice(("", "-", " "))
    return separator.join(number[i : i + 4] for i in range(0, 16, 4))


def business() -> str:
    head = f"{RNG.randrange(101, 999)}{RNG.randrange(10, 99)}{digits(4)}"
    number = with_last(lambda d: head + d, business_checksum)
    return f"{number[:3]}-{number[3:5]}-{number[5:]}"


def mobile() -> str:
    return RNG.choice(("-", ".", " ", "")).join(("010", str(RNG.randrange(2000, 9999)), digits(4)))


MAKERS: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    "RESIDENT_NUMBER": (lambda: resident("1234"), ("제 주민번호는 {}입니다.", "{}로 조회해 주세요", "신청인: {} / 서울")),
    "FOREIGNER_NUMBER": (lambda: resident("5678"), ("외국인등록번호 {}을 확인", "등록증 번호가 {}인데요")),
    "BUSINESS_NUMBER": (business, ("사업자등록번호 {}로 발행해 주세요", "사업자번호는 {}이에요")),
    "CARD": (card, ("카드번호 {}로 결제했어요", "{} 이 카드 정지", "my card is {}, thanks")),
    "PHONE": (mobile, ("연락처는 {}입니다", "담당자({})에게", "{}로 전화해 주세요", "call me at {} please")),
    "EMAIL": (lambda: f"user{digits(3)}@mail.example.kr", ("메일은 {}로 보내 주세요", "write to {}.", "({})")),
    "IP_ADDRESS": (lambda: ".".join(str(RNG.randrange(10, 250)) for _ in range(4)), ("접속 IP {}에서", "server {} is down")),
    "ACCOUNT": (lambda: f"{digits(6)}-{RNG.randrange(10, 99)}-{digits(6)}", ("계좌번호 {}로 입금", "{}(신한)으로 보내 줘")),
    "LICENCE": (lambda: f"{RNG.randrange(11, 27)}-{digits(2)}-{digits(6)}-{digits(2)}", ("운전면허 {} 갱신",)),
    "PASSPORT": (lambda: f"M{digits(3)}{RNG.choice('ABCDF')}{digits(4)}", ("여권번호 {}로 예약", "passport {} expires")),
}  # fmt: skip
LOOK_ALIKES: tuple[Callable[[], str], ...] = (
    lambda: f"운송장 {RNG.randrange(10**11, 10**12)} 조회",
    lambda: f"주문번호 {digits(4)}-{digits(4)} 배송",
    lambda: f"바코드 880{digits(10)} 상품",
    lambda: f"ISBN 978-89-{digits(4)}-{digits(3)}-{digits(1)}",
    lambda: f"2024-{RNG.randrange(10, 12)}-{RNG.randrange(10, 28)} 회의",
    lambda: f"금액은 {RNG.randrange(1, 999)},{digits(3)},{digits(3)}원",
    lambda: f"버전 {RNG.randrange(9)}.{RNG.randrange(9)}.{RNG.randrange(9)}.{RNG.randrange(99)}",
    lambda: f"위도 37.{digits(5)} 경도 127.{digits(4)}",
    lambda: f"로그 {RNG.randrange(70, 99)}{RNG.randrange(13, 99)}{digits(2)}-9{digits(6)}",
    lambda: f"점수 {digits(4)}-{digits(3)}로 이겼다",
    lambda: f"사건번호 2023가합{digits(4)}",
    lambda: f"원주율은 3.{digits(14)}이다",
    lambda: f"({RNG.randrange(1500, 1800)}-{RNG.randrange(1801, 1999)})년에 살았다",
    lambda: f"인구는 {digits(2)}만 {digits(4)}명",
    lambda: f"https://example.com/{digits(8)}/{digits(6)}",
    lambda: f"모델 SM-{digits(4)}N",
)


@pytest.mark.parametrize("kind", MAKERS)
def test_recall(kind: str) -> None:
    make, frames = MAKERS[kind]
    missed = []
    for number in range(150):
        item = make()
        text = frames[number % len(frames)].format(item)
        if [(f.kind, f.text) for f in find(text)] != [(kind, item)]:
            missed.append((text, find(text)))
    assert len(missed) <= 0.02 * 150, missed[:5]


def test_look_alikes() -> None:
    texts = [LOOK_ALIKES[number % len(LOOK_ALIKES)]() for number in range(1600)]
    alarms = [(text, find(text)) for text in texts if find(text)]
    assert len(alarms) <= 0.02 * len(texts), alarms[:8]


def test_numbers_without_checksum_since_2020() -> None:
    numbers = [resident("34", checked=False) for _ in range(50)]
    assert all(find(f"주민번호 {number}로 조회")[0].text == number for number in numbers)


def test_international() -> None:
    text = "IBAN DE89 3704 0044 0532 0130 00, SSN 536-22-1234, call +1 (415) 555-2671 or 2001:db8::8a2e:370:7334."
    assert [(f.kind, f.text) for f in find(text)] == [
        ("ACCOUNT", "DE89 3704 0044 0532 0130 00"), ("SSN", "536-22-1234"), ("PHONE", "+1 (415) 555-2671"),
        ("IP_ADDRESS", "2001:db8::8a2e:370:7334"),
    ]  # fmt: skip


def test_placeholders_keep_particles_and_language() -> None:
    assert redact("전화는 010-1234-5678로 주세요")[0] == "전화는 [전화번호]로 주세요"
    assert redact("０１０-１２３４-５６７８로")[0] == "[전화번호]로"
    assert redact("mail a.b@example.com now")[0] == "mail [EMAIL] now"


def test_messages_and_tool_arguments() -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "call", "arguments": '{"to": "010-1234-5678"}'},
    }
    messages, found = redact_messages([{"role": "assistant", "content": "a@b.kr", "tool_calls": [call]}])
    assert messages[0]["content"] == "[EMAIL]"
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == '{"to": "[PHONE]"}'
    assert [f.kind for f in found] == ["EMAIL", "PHONE"]
    assert "1234" in call["function"]["arguments"]  # type: ignore[index]


PARTS = [
    "010-1234-5678", "a@b.com", "900101-1234567", "계좌", " ", "로", "x", "12", "-", ".", "카드", "번호", "전화", "1.2.3.4",
]  # fmt: skip


def test_a_word_before_an_address_is_no_part_of_it() -> None:
    text = "010-1234-567812계좌a@b.com"
    assert [found.kind for found in find(text)] == ["ACCOUNT", "EMAIL"]
    assert [found.kind for found in find(text.replace("계좌", ""))] == ["EMAIL"]  # the control


def test_what_a_placeholder_makes_visible_goes_too() -> None:
    text, found = redact("010-1234-5678-121.2.3.4")
    assert text == "[PHONE]-[IP_ADDRESS]"
    assert [item.kind for item in found] == ["IP_ADDRESS", "PHONE"]


@given(st.lists(st.sampled_from(PARTS)))
def test_redacting_twice_changes_nothing(parts: list[str]) -> None:
    once = redact("".join(parts))[0]
    assert redact(once) == (once, [])


@pytest.mark.data
def test_shared_material(shared_data: Path) -> None:
    rows = json.loads((shared_data / "safety-dev" / "ko_pii.json").read_text(encoding="utf-8"))
    positive = [row for row in rows if row["spans"]]
    wanted = [{(s["start"], s["end"]) for s in row["spans"]} for row in positive]
    hits = sum(
        {(f.start, f.end) for f in find(row["text"])} == want
        for row, want in zip(positive, wanted, strict=True)
    )
    alarms = sum(bool(find(row["text"])) for row in rows if not row["spans"])
    assert hits >= 0.98 * len(positive)
    assert alarms <= 0.02 * (len(rows) - len(positive))
