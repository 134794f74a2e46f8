"""How facts are asked, in Korean and in English: `{p}` is the place, `{p:은}` the place with its particle."""

from __future__ import annotations

from collections.abc import Mapping

from hanok.data.village.wordings import Wordings, cross, held_out_last

# attribute -> (what one asks for it with, names of the attribute)
_TERMS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "ko": {
        "owner": ("누구예요", ("주인", "주인 이름", "가게 주인", "운영하는 사람")),
        "open": ("몇 시예요", ("여는 시간", "문 여는 시간", "여는 때", "개점 시간")),
        "close": ("몇 시예요", ("닫는 시간", "문 닫는 시간", "닫는 때", "폐점 시간")),
        "closed": ("무슨 요일이에요", ("쉬는 날", "쉬는 요일", "휴무일", "문 안 여는 날")),
        "item": ("뭐예요", ("대표 상품", "파는 물건", "유명한 물건", "대표 물건")),
        "price": ("얼마예요", ("가격", "값", "물건 값", "상품 가격")),
        "year": ("언제예요", ("생긴 해", "처음 연 해", "생긴 연도", "시작한 해")),
        "street": ("어디예요", ("위치", "주소", "있는 곳", "자리")),
        "phone": ("몇 번이에요", ("전화번호", "전화", "연락처", "가게 번호")),
    },
    "en": {
        "owner": ("who is", ("owner", "name of the owner", "keeper", "person in charge")),
        "open": ("what is", ("opening time", "opening hour", "time of opening", "start of business")),
        "close": ("what is", ("closing time", "closing hour", "time of closing", "end of business")),
        "closed": ("what is", ("closed day", "day off", "weekly holiday", "rest day")),
        "item": ("what is", ("main product", "specialty", "best known product", "product on sale")),
        "price": ("what is", ("price", "usual price", "cost", "price of the product")),
        "year": ("what is", ("founding year", "year of founding", "first year", "starting year")),
        "street": ("what is", ("location", "address", "street", "whereabouts")),
        "phone": ("what is", ("phone number", "telephone number", "number to call", "phone")),
    },
}
_FRAMES: dict[str, tuple[str, ...]] = {
    "ko": (
        "{p}의 {n:은} {w}?", "{p} {n:이} {w}?", "{p}의 {n:을} 알려 주세요.", "{p} {n} 좀 알려 주세요.",
        "{p}의 {n:이} 궁금해요.", "{p} {n:을} 아세요?", "{w}, {p}의 {n:은}?", "{p}의 {n:을} 말해 주세요.",
        "{n:을} 알고 싶어요, {p}의 것이요.",
    ),
    "en": (
        "{W} the {n} of {p}?", "Tell me the {n} of {p}.", "Please give me the {n} of {p}.", "{p}: {w} the {n}?",
        "Do you know the {n} of {p}?", "The {n} of {p}, please.", "Can you tell me the {n} of {p}?",
        "I want to know the {n} of {p}.", "For {p}, {w} the {n}?",
    ),
}  # fmt: skip
# with a verb of its own
_VERBS: dict[str, dict[str, tuple[str, ...]]] = {
    "ko": {
        "owner": ("{p:은} 누가 운영해요?", "{p:을} 운영하는 사람은 누구예요?", "누가 {p:을} 운영해요?"),
        "open": ("{p:은} 몇 시에 문을 열어요?", "{p:은} 언제 열어요?", "언제 {p:이} 문을 열어요?"),
        "close": ("{p:은} 몇 시에 문을 닫아요?", "{p:은} 언제 닫아요?", "언제 {p:이} 문을 닫아요?"),
        "closed": ("{p:은} 무슨 요일에 쉬어요?", "{p:은} 언제 쉬어요?", "무슨 요일에 {p:이} 쉬어요?"),
        "item": ("{p}에서는 뭘 팔아요?", "{p:은} 뭘로 유명해요?", "뭘 {p}에서 팔아요?"),
        "price": ("{p}에서 하나 사면 얼마예요?", "{p}에서는 얼마를 내요?", "하나 사면 {p}에서 얼마예요?"),
        "year": ("{p:은} 언제 생겼어요?", "{p:은} 몇 년에 생겼어요?", "몇 년에 {p:이} 생겼어요?"),
        "street": ("{p:은} 어디에 있어요?", "{p:은} 무슨 길에 있어요?", "무슨 길에 {p:이} 있어요?"),
        "phone": ("{p}에 전화하려면 몇 번이에요?", "{p}에는 몇 번으로 걸어요?", "몇 번으로 {p}에 걸어요?"),
    },
    "en": {
        "owner": ("Who runs {p}?", "Who owns {p}?", "{p} is run by whom?"),
        "open": ("When does {p} open?", "At what time does {p} open?", "{p} opens at what time?"),
        "close": ("When does {p} close?", "At what time does {p} close?", "{p} closes at what time?"),
        "closed": ("On which day is {p} closed?", "Which day is {p} closed?", "{p} is closed on which day?"),
        "item": ("What does {p} sell?", "What can I buy at {p}?", "{p} sells what?"),
        "price": ("How much do I pay at {p}?", "How much does it cost at {p}?", "At {p}, how much do I pay?"),
        "year": ("When was {p} founded?", "In which year was {p} founded?", "{p} was founded in which year?"),
        "street": ("Where is {p}?", "On which street is {p}?", "{p} is on which street?"),
        "phone": ("Which number do I call for {p}?", "How do I phone {p}?", "For {p}, which number do I call?"),
    },
}  # fmt: skip
_NEXT_FRAMES: dict[str, tuple[str, ...]] = {
    "ko": ("{n:은}요?", "거기 {n:은} {w}?", "그럼 {n:은} {w}?", "거기 {n}도 알려 주세요.", "{n}도 궁금해요."),
    "en": (
        "And the {n}?",
        "And {w} the {n}?",
        "{W} its {n}?",
        "Tell me its {n} too.",
        "And its {n}, please?",
    ),
}
_NEXT_VERBS: dict[str, dict[str, tuple[str, ...]]] = {
    "ko": {
        "owner": ("거기는 누가 운영해요?",), "open": ("거기는 언제 열어요?",), "close": ("거기는 언제 닫아요?",),
        "closed": ("거기는 언제 쉬어요?",), "item": ("거기서는 뭘 팔아요?",), "price": ("거기서는 얼마를 내요?",),
        "year": ("거기는 언제 생겼어요?",), "street": ("거기는 어디에 있어요?",), "phone": ("거기는 몇 번으로 걸어요?",),
    },
    "en": {
        "owner": ("Who runs it?",), "open": ("When does it open?",), "close": ("When does it close?",),
        "closed": ("On which day is it closed?",), "item": ("What does it sell?",),
        "price": ("How much do I pay there?",), "year": ("When was it founded?",), "street": ("Where is it?",),
        "phone": ("Which number do I call?",),
    },
}  # fmt: skip


def _wordings(
    language: str, frames: tuple[str, ...], verbs: Mapping[str, tuple[str, ...]], held_out: int
) -> dict[str, Wordings]:
    made = {}
    for attribute, (asking, terms) in _TERMS[language].items():
        asked = {"w": asking, "W": asking.capitalize()}
        made[attribute] = cross(frames, terms, **asked) + held_out_last(verbs[attribute], held_out)
    return made


QUESTIONS: dict[str, dict[str, Wordings]] = {
    language: _wordings(language, frames, _VERBS[language], 0) for language, frames in _FRAMES.items()
}
# asked right after another question about the same place
FOLLOW_UPS: dict[str, dict[str, Wordings]] = {
    language: _wordings(language, frames, _NEXT_VERBS[language], 0)
    for language, frames in _NEXT_FRAMES.items()
}

# before and behind any question; those in HELD_OUT_* occur in the test split only
OPENERS: dict[str, tuple[str, ...]] = {
    "ko": ("안녕하세요. ", "저기요, ", "궁금한 게 있어요. ", "하나만 물을게요. ", "실례해요. ", "마을에 처음 왔어요. "),
    "en": ("Hello. ", "Excuse me, ", "I have a question. ", "One quick thing. ", "Please help me. ", "I am new here. "),
}  # fmt: skip
CLOSERS: dict[str, tuple[str, ...]] = {
    "ko": (" 궁금해요.", " 고마워요."),
    "en": (" I would like to know.", " Thank you."),
}
HELD_OUT_OPENERS: dict[str, tuple[str, ...]] = {
    "ko": ("잠깐만요. ", "여행 왔는데요, "),
    "en": ("Hi there. ", "I am visiting. "),
}
HELD_OUT_CLOSERS: dict[str, tuple[str, ...]] = {"ko": (" 미리 고마워요.",), "en": (" Thanks a lot.",)}
