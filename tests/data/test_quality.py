"""Each rule rejects what it is for, and good texts pass all of them."""

from __future__ import annotations

import string

import pytest

from hanok.data.quality import RULES, judge, judge_conversation

GOOD_KO = (
    "한옥은 나무와 흙, 돌로 지은 집이다. 겨울에는 온돌로 바닥을 데우고 여름에는 마루에서 바람을 맞는다. "
    "처마는 비를 막고 볕의 양을 조절한다.\n"
    "마을 사람들은 골목마다 작은 가게를 열었다. 어떤 집은 떡을 찌고 어떤 집은 책을 판다. "
    "아이들은 우물가에서 놀다가 저녁이면 집으로 돌아간다."
)
GOOD_EN = (
    "The house is built of wood, clay and stone. In winter the floor is heated from below, and in summer the wide porch "
    "catches the wind. The eaves keep off the rain, and they let in just as much of the sun as the season asks for.\n"
    "People of the village keep small shops along the lanes, and the children play by the well until it is dark."
)
WORDS = [f"낱말{i}은" for i in range(70)]
BAD = [
    ("too_short", "짧다.", "ko"),
    ("long_words", "supercalifragilistic " * 3 + " ".join(f"antidisestablishment{i}" for i in range(12)), "en"),
    ("short_words", " ".join(string.ascii_lowercase * 2), "en"),
    ("long_eojeol", " ".join(f"띄어쓰기를전혀하지않고길게이어서쓴글{i}번" for i in range(12)), "ko"),
    ("spaced_syllables", " ".join("이글은한글자씩모두띄어서쓴글이라서읽기가어렵고학습에도좋지않다그래서버려야한다고본다"), "ko"),
    ("symbols", " ".join(f"#{word} 사진이 좋다." for word in WORDS[:30]), "ko"),
    ("words_with_letters", "--- === *** +++ ~~~ ||| ??? !!! ### ;;; ::: ... 가 나 다 라", "ko"),
    ("bullet_lines", "\n".join(f"- 항목 {word} 설명이 있다" for word in WORDS[:30]), "ko"),
    ("ellipsis_lines", "\n".join(f"{word} 이야기는 더 보기에서..." for word in WORDS[:30]), "ko"),
    ("stop_words", " ".join(f"keyword{i} buy cheap" for i in range(30)), "en"),
    ("repeated_lines", "같은 줄이 되풀이된다는 뜻이다.\n" * 8, "ko"),
    ("duplicate_10_grams", " ".join(WORDS + WORDS[:10]), "ko"),
    ("top_2_gram", " ".join(f"좋은 가격 {word}" for word in WORDS[:30]), "ko"),
    ("lorem_ipsum", GOOD_EN + " Lorem ipsum dolor sit amet.", "en"),
    ("boilerplate", "Please enable JavaScript to view this page of the village and its shops.\nThank you for coming.", "en"),
    ("replacement_characters", GOOD_KO + "\ufffd\ufffd\ufffd", "ko"),
    ("jamo_chatter", "진짜 ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ 대박 ㅠㅠㅠㅠㅠㅠㅠㅠㅠ 웃겨서 못 보겠다 ㅎㅎㅎㅎㅎㅎㅎ", "ko"),
    ("repeated_syllable", "이것은 정말로 아주 많이 놀라운 일이에요 와아아아아아아아아아아아아아아아아아아아아아아아아아아", "ko"),
    ("particles", " ".join(f"도시{i}" for i in range(70)), "ko"),
    ("sentence_endings", " ".join(f"마을에서 낱말{i}만" for i in range(40)), "ko"),
    ("markup_residue", GOOD_KO + "{{틀|이름}} [[분류:한옥]] <ref>책</ref> {{끝}}", "ko"),
    ("list_debris", "\n".join(f"{word} 좋다." for word in WORDS), "ko"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "language"), BAD, ids=[rule for rule, *_ in BAD])
def test_rejects(rule: str, text: str, language: str) -> None:
    rejected = judge(text, language, min_characters=20)
    assert rejected is not None
    assert rejected.rule == rule, rejected
    assert str(rejected.threshold)


@pytest.mark.parametrize(("text", "language"), [(GOOD_KO, "ko"), (GOOD_EN, "en"), (GOOD_EN, "und")])
def test_good_texts_pass(text: str, language: str) -> None:
    assert judge(text, language, min_characters=50) is None


def test_every_rule_has_a_name_of_its_own_and_a_threshold() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all("at " in rule.threshold() for rule in RULES)


def test_conversations() -> None:
    ask, answer = {"role": "user", "content": "몇 시예요?"}, {"role": "assistant", "content": "세 시예요."}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
    }
    assert judge_conversation([ask, answer]) is None
    assert judge_conversation([ask, call, {"role": "tool", "content": "3"}, answer]) is None
    for messages, rule in [
        ([ask], "no_answer"),
        ([answer, ask], "answer_before_question"),
        ([ask, {"role": "assistant", "content": " ... "}], "empty_assistant_turn"),
        ([{"role": "user", "content": "?!"}, answer], "empty_user_turn"),
    ]:
        rejected = judge_conversation(messages)
        assert rejected is not None
        assert rejected.rule == rule
