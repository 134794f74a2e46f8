"""Comparisons, tool requests, small talk and requests for letters: wordings and answers."""

from __future__ import annotations

from hanok.data.village.wordings import Wordings, cross, held_out_last

_COMPARING: dict[str, dict[str, tuple[str, ...]]] = {
    "ko": {
        "year": ("어디가 더 오래됐어요?", "더 오래된 곳은 어디예요?", "먼저 생긴 곳은 어디예요?", "어디가 먼저 생겼어요?"),
        "price": ("어디가 더 싸요?", "더 싼 곳은 어디예요?", "값이 싼 곳은 어디예요?", "어디가 값이 더 싸요?"),
        "open": ("어디가 더 일찍 열어요?", "더 일찍 여는 곳은 어디예요?", "먼저 여는 곳은 어디예요?", "어디가 먼저 열어요?"),
    },
    "en": {
        "year": ("which is older", "which one is older", "which was founded first", "which is the older one"),
        "price": ("which is cheaper", "which one is cheaper", "which costs less", "which is the cheaper one"),
        "open": ("which opens earlier", "which one opens earlier", "which opens first", "which is the earlier one"),
    },
}  # fmt: skip
_PAIRS: dict[str, tuple[str, ...]] = {
    "ko": (
        "{p:과} {q} 중에 {n}", "{p:이랑} {q} 중에서 {n}", "{p:과} {q:을} 비교하면 {n}", "{p:과} {q} 중 {n}",
        "{p:이랑} {q} 둘 중에 {n}", "{p:과} {q:이} 있는데 {n}",
    ),
    "en": (
        "{p} or {q}: {n}?", "Of {p} and {q}, {n}?", "Between {p} and {q}, {n}?", "Compare {p} and {q}: {n}?",
        "Take {p} and {q}: {n}?", "Say {n}, {p} or {q}?",
    ),
}  # fmt: skip
COMPARISONS: dict[str, dict[str, Wordings]] = {
    language: {attribute: cross(_PAIRS[language], asking) for attribute, asking in kinds.items()}
    for language, kinds in _COMPARING.items()
}
VERDICTS: dict[str, dict[str, str]] = {
    "ko": {
        "year": "더 오래된 곳은 {p:이에요}.",
        "price": "더 싼 곳은 {p:이에요}.",
        "open": "더 일찍 여는 곳은 {p:이에요}.",
    },
    "en": {
        "year": "The older one is {p}.",
        "price": "The cheaper one is {p}.",
        "open": "The earlier one is {p}.",
    },
}

_CALCULATE: dict[str, tuple[str, ...]] = {
    "ko": (
        "계산기로 {e:을} 계산해 주세요.", "계산기를 써서 {e:을} 구해 주세요.", "{e:을} 계산기로 해 주세요.",
        "계산기로 {e:은} 얼마예요?", "{e:을} 계산기로 풀어 주세요.", "계산기를 써서 {e:을} 풀어 주세요.",
        "계산기로 {e} 값을 구해 주세요.", "{e} 값을 계산기로 알려 주세요.", "계산기에 {e:을} 넣어 주세요.",
        "{e}, 계산기로 계산해 주세요.",
    ),
    "en": (
        "Use the calculator for {e}.", "Please calculate {e} with the calculator.", "Calculate {e} with the calculator.",
        "With the calculator, what is {e}?", "What does the calculator say for {e}?",
        "Use the calculator to work out {e}.", "Work out {e} with the calculator.", "Please use the calculator: {e}.",
        "Put {e} into the calculator.", "{e}: use the calculator.",
    ),
}  # fmt: skip
CALCULATED = {"ko": "계산하면 {e}={v:이에요}.", "en": "The calculator says {e}={v}."}
_HOURS: dict[str, tuple[str, ...]] = {
    "ko": (
        "시간표에서 {p} 시간을 찾아 주세요.", "{p} 시간을 시간표에서 봐 주세요.", "시간표로 {p} 시간을 알려 주세요.",
        "시간표에서 {p:을} 봐 주세요.", "{p:은} 시간표에 몇 시로 나와요?", "시간표를 보고 {p} 시간을 알려 주세요.",
        "{p} 영업 시간을 시간표에서 찾아 주세요.", "시간표에서 {p} 영업 시간을 봐 주세요.",
        "시간표에 {p:은} 어떻게 나와요?", "{p}, 시간표에서 찾아 주세요.",
    ),
    "en": (
        "Look up the hours of {p} in the timetable.", "See the timetable for the hours of {p}.",
        "Find {p} in the timetable.", "What are the hours of {p} in the timetable?",
        "Please look up {p} in the timetable.", "Check the timetable for {p}.",
        "In the timetable, what are the hours of {p}?", "Use the timetable to find the hours of {p}.",
        "What does the timetable say for {p}?", "{p}: look it up in the timetable.",
    ),
}  # fmt: skip
CALCULATE = {language: held_out_last(wordings, 2) for language, wordings in _CALCULATE.items()}
HOURS = {language: held_out_last(wordings, 2) for language, wordings in _HOURS.items()}
HOURS_ANSWER = {"ko": "{p:은} {o}에 열고 {c}에 닫아요.", "en": "{p} opens at {o} and closes at {c}."}

LETTERS: dict[str, tuple[str, ...]] = {
    "ko": (
        "{p} 이야기로 짧은 편지를 써 주세요.",
        "친구에게 {p:을} 소개하는 편지를 써 주세요.",
        "{p} 이야기를 들려주세요.",
    ),
    "en": ("Write a short letter about {p}.", "Write to a friend about {p}.", "Tell me a story of {p}."),
}

SMALL_TALK: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "ko": (
        (
            ("안녕하세요.", "안녕!", "반가워요.", "좋은 아침이에요.", "처음 뵙겠습니다.", "안녕하세요, 반가워요."),
            ("안녕하세요. 마을 일이라면 무엇이든 물어보세요.", "반가워요. 무엇을 도와드릴까요?"),
        ),
        (
            ("고마워요.", "감사합니다.", "도움이 됐어요.", "정말 고마워요."),
            ("천만에요. 또 물어보세요.", "도움이 되어 기뻐요."),
        ),
        (
            ("누구세요?", "이름이 뭐예요?", "뭘 할 수 있어요?", "무엇을 물어보면 돼요?"),
            ("저는 한옥 마을을 안내하는 도우미예요. 집과 가게, 시간과 값을 알려 드려요.",),
        ),
        (("잘 가요.", "또 올게요.", "안녕히 계세요.", "다음에 봐요."), ("안녕히 가세요. 또 오세요.", "좋은 하루 보내세요.")),
        (
            ("날씨 어때요?", "오늘 비 와요?", "내일은 더워요?"),
            ("날씨는 제가 알 수 없어요. 마을의 집과 가게는 알려 드릴게요.",),
        ),
    ),
    "en": (
        (
            ("Hello.", "Hi!", "Good morning.", "Nice to meet you.", "Good evening.", "Hello, how are you?"),
            ("Hello. Ask me anything about the village.", "Nice to meet you. How can I help?"),
        ),
        (
            ("Thank you.", "Thanks!", "That helped.", "Thank you very much."),
            ("You are welcome. Ask me again.", "I am glad that I could help."),
        ),
        (
            ("Who are you?", "What is your name?", "What can you do?", "What can I ask you?"),
            ("I am a guide to the hanok village. I tell you about its houses and shops, hours and prices.",),
        ),
        (("Goodbye.", "See you.", "I will come again.", "See you next time."), ("Goodbye. Come again.", "Have a nice day.")),
        (
            ("How is the weather?", "Does it rain today?", "Will it be hot tomorrow?"),
            ("I do not know the weather. I can tell you about the houses and shops.",),
        ),
    ),
}  # fmt: skip
