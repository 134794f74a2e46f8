"""The checker takes every way of writing the right answer, and no wrong or nearly right one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.data.village import arithmetic
from hanok.data.village.build import Village
from hanok.data.village.check import abstained, check
from hanok.data.village.config import VillageConfig
from hanok.data.village.documents import state
from hanok.data.village.places import ATTRIBUTES, Place
from hanok.data.village.sentences import UNKNOWN
from hanok.data.village.tools import calculate, execute, hours, timetable, tool_call

VILLAGE = Village(VillageConfig())
places = st.sampled_from(VILLAGE.places)
attributes = st.sampled_from(ATTRIBUTES)
languages = st.sampled_from(("ko", "en"))


def question(place: Place, attribute: str, language: str) -> dict[str, Any]:
    return {
        "kind": "fact",
        "type": attribute,
        "answer": place.value(attribute, language),
        "language": language,
    }


@given(place=places, attribute=attributes, language=languages, wording=st.integers(0, 4))
def test_every_wording_of_the_fact_is_right(
    place: Place, attribute: str, language: str, wording: int
) -> None:
    assert check(question(place, attribute, language), state(place, attribute, language, wording))


@given(one=places, two=places, attribute=attributes, language=languages, wording=st.integers(0, 4))
def test_another_value_is_wrong(one: Place, two: Place, attribute: str, language: str, wording: int) -> None:
    if one.value(attribute, language) == two.value(attribute, language):
        return
    asked = question(one, attribute, language)
    wrong = state(two, attribute, language, wording)
    assert not check(asked, wrong)
    assert not check(asked, f"{state(one, attribute, language, 0)} {wrong}"), "both values is no answer"


@given(place=places, attribute=attributes, language=languages)
def test_no_value_or_a_refusal_is_wrong(place: Place, attribute: str, language: str) -> None:
    asked = question(place, attribute, language)
    assert not check(asked, "")
    assert not check(asked, place.name.of(language))
    assert not check(asked, "몰라요." if language == "ko" else "I do not know.")


@given(number=st.integers(0, 99_999), other=st.integers(0, 99_999), language=languages)
def test_numbers(number: int, other: int, language: str) -> None:
    asked = {"kind": "arithmetic", "type": "number", "answer": str(number), "language": language}
    for text in (
        f"The answer is {number}.",
        f"1+1: 1+1=2 -> {number}",
        f"답은 {number:,}원이에요.",
        f"{number}",
    ):
        assert check(asked, text)
    assert not check(asked, f"The answer is {number}1.")
    assert not check(asked, f"The answer is 1{number}.")
    if other != number:
        assert not check(asked, f"The answer is {other}.")
        assert not check(asked, f"{number} -> {other}")


@pytest.mark.parametrize(
    ("type_", "answer", "right", "wrong"),
    [
        ("price", "5200원", ["5,200원이에요.", "값은 5200 원"], ["15200원", "520원", "52000원", "5200"]),
        ("price", "900 won", ["It costs 900 won."], ["1900 won", "900 am", "It is 90 won."]),
        ("open", "오전 9시", ["오전 9시에 열어요", "오전9시"], ["오후 9시", "오전 8시", "9시", "오전 10시"]),
        ("open", "9 am", ["At 9 am.", "9am"], ["9 pm", "19 am", "8 am"]),
        ("closed", "월요일", ["월요일에 쉬어요."], ["화요일", "월요일과 화요일"]),
        ("owner", "김서연", ["김서연 씨예요.", "주인은 김서연이에요"], ["박서연", "김서연과 박민준", "이김서연"]),
        ("owner", "Kim Seoyeon", ["It is Kim Seoyeon.", "kim seoyeon"], ["Kim Seoyeons", "Park Seoyeon", "Seoyeon"]),
        ("phone", "054-700-1234", ["054-700-1234예요."], ["054-700-12345", "054-700-1235", "700-1234"]),
        ("year", "1907년", ["1907년에 생겼어요", "1907"], ["11907년", "1908년", "190년", "1907년 1908년"]),
        ("street", "Well Street", ["on Well Street."], ["Stonewall Street", "Mill Street", "Well"]),
        ("item", "roses", ["It sells roses."], ["It sells daisies.", "roses and daisies"]),
        ("item", "국화", ["국화를 팔아요."], ["국화차를 팔아요.", "수국을 팔아요."]),
    ],
)  # fmt: skip
def test_near_misses(type_: str, answer: str, right: list[str], wrong: list[str]) -> None:
    asked = {"kind": "fact", "type": type_, "answer": answer}
    assert all(check(asked, text) for text in right)
    assert not any(check(asked, text) for text in wrong)


@given(language=languages, name=st.sampled_from(VILLAGE.unknown["test"]))
def test_abstention(language: str, name: tuple[str, str]) -> None:
    asked = {"kind": "abstention", "type": "price", "answer": ""}
    said = UNKNOWN[language].replace("{p:은}", name[0] + "은").replace("{p}", name[1])
    assert abstained(said)
    assert check(asked, said)
    assert not check(asked, "900 won")
    assert not check(asked, "몰라요. 900원이에요.")
    assert not check(asked, "")


def test_comparison() -> None:
    asked = {
        "kind": "comparison",
        "type": "place",
        "answer": "달빛 찻집",
        "choices": ["달빛 찻집", "솔향 빵집"],
    }
    assert check(
        asked, "달빛 찻집은 1900년에 생겼어요. 솔향 빵집은 1950년에 생겼어요. 더 오래된 곳은 달빛 찻집이에요."
    )
    assert not check(asked, "달빛 찻집은 1900년에 생겼어요. 더 오래된 곳은 솔향 빵집이에요.")
    assert not check(asked, "둘 다요.")


def test_tool_questions_need_the_call_and_the_answer() -> None:
    call = {"name": "calculate", "arguments": {"expression": "12+30"}}
    asked = {"kind": "tool", "type": "number", "answer": "42", "call": call}
    made = [tool_call("calculate", expression="12 + 30")]
    assert check(asked, "The calculator says 12+30=42.", made)
    assert not check(asked, "The calculator says 12+30=42.")
    assert not check(asked, "The calculator says 12+30=43.", made)
    assert not check(asked, "42", [tool_call("calculate", expression="12+31")])
    assert not check(asked, "42", [tool_call("hours", place="12+30")])
    assert not check(asked, "42", [{"function": {"name": "calculate", "arguments": "{"}}])


@given(left=st.integers(0, 9999), right=st.integers(0, 9999), digit=st.integers(2, 9))
def test_steps_are_true(left: int, right: int, digit: int) -> None:
    high, low = max(left, right), min(left, right)
    for problem in (
        arithmetic.add(left, right),
        arithmetic.subtract(high, low),
        arithmetic.multiply(left, digit),
    ):
        assert problem.result == int(calculate(problem.expression))
        for equation in arithmetic.equations(problem):
            said, _, result = equation.partition("=")
            assert eval(said) == int(result)


def test_tools() -> None:
    table = timetable(VILLAGE.places)
    place = VILLAGE.places[0]
    assert calculate("1234+5678") == "6912"
    assert calculate("7*(8-3)") == "35"
    for wrong in ("__import__('os')", "1/0", "2**99", "1+", "a", "1.5+1", "True+1"):
        assert calculate(wrong) == "error"
    assert hours(place.name.en, table) == f"{place.value('open', 'en')} - {place.value('close', 'en')}"
    assert hours(place.name.ko, table) == f"{place.value('open', 'ko')} - {place.value('close', 'ko')}"
    assert hours("Nowhere", table) == "none"
    assert execute(tool_call("calculate", expression="2*3"), table) == "6"
    assert execute({"function": {"name": "calculate", "arguments": json.dumps([1])}}, table) == "error"
    assert execute({"function": {"name": "unknown", "arguments": "{}"}}, table) == "error"
