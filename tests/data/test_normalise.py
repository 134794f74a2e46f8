"""Repairs that help, and texts that must stay as they are."""

from __future__ import annotations

import unicodedata

import pytest

from hanok.data.language import identify
from hanok.data.normalise import normalise


@pytest.mark.parametrize(
    ("before", "after", "repair"),
    [
        (unicodedata.normalize("NFD", "한옥 마을"), "한옥 마을", "composed (NFC)"),
        ("한\u200b옥\ufeff 마\u00ad을", "한옥 마을", "invisible characters"),
        ("abc\u202edef\u202c", "abcdef", "invisible characters"),
        ("hi\U000e0068\U000e0069 there", "hi there", "invisible characters"),
        ("a\x00b\x1bc", "abc", "control characters"),
        ("The cafÃ© was closed.", "The café was closed.", "mojibake"),
        ("고양이는 자고 있다.".encode().decode("latin-1"), "고양이는 자고 있다.", "mojibake"),
    ],
)  # fmt: skip
def test_repairs(before: str, after: str, repair: str) -> None:
    text, repairs = normalise(before)
    assert text == after
    assert repairs[repair] > 0


@pytest.mark.parametrize(
    "text",
    [
        "가족 👨\u200d👩\u200d👧 사진과 ❤\ufe0f 하나",
        "می\u200cخواهم",
        "क्\u200dष",
        "Ｆｕｌｌｗｉｄｔｈ 漢字와 “따옴표”… and ½ ㎡",
        "def f(x):\n    return x\n\n\tindented",
        "naïve café – São Paulo, Ærøskøbing",
        "ㅋㅋㅋ ㅠㅠ",
    ],
)
def test_left_alone(text: str) -> None:
    assert normalise(text) == (text, {})


def test_lines() -> None:
    assert normalise("a  \r\nb\r\n\r\n\r\n\r\nc\t\n")[0] == "a\nb\n\nc"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("한옥은 나무와 흙으로 지은 집이다.", "ko"),
        ("Seoul(서울)은 대한민국의 수도이다. It is big.", "ko"),
        ("The house is built of wood and clay, and it stands in a quiet village near the river.", "en"),
        ("Das Haus ist aus Holz und Lehm gebaut und steht in einem ruhigen Dorf am Fluss.", "de"),
        ("これは日本語の文章です。", "ja"),
        ("这是一个用中文写的句子，没有别的意思。", "zh"),
        ("12345 67890 !!!", "und"),
        ("ok", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert identify(text) == language
