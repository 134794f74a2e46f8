"""How facts are asked, in Korean and in English: `{p}` is the place, `{p:은}` the place with its particle.

The last `HELD_OUT_WORDINGS` of each list of QUESTIONS, and the last `HELD_OUT_FOLLOW_UPS` of each list of FOLLOW_UPS (asked
right after another question about the same place), occur in the test split only.
"""

from __future__ import annotations

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "ko": {
        "owner": (
            "{p}의 주인은 누구예요?", "{p:은} 누가 운영해요?", "{p} 주인 이름이 뭐예요?",
            "{p:을} 운영하는 사람은 누구예요?",
            "{p} 주인이 누군지 알려 주세요.", "누가 {p:을} 운영해요?", "{p}의 주인 이름을 알려 주세요.",
            "누가 {p}의 주인이에요?",
        ),
        "open": (
            "{p:은} 몇 시에 문을 열어요?", "{p}의 여는 시간은 언제예요?", "{p:은} 언제 열어요?", "{p} 몇 시에 열어요?",
            "{p} 여는 시간이 몇 시예요?", "언제 {p:이} 문을 열어요?", "{p}의 여는 시간을 알려 주세요.",
            "몇 시에 {p:이} 문을 열어요?",
        ),
        "close": (
            "{p:은} 몇 시에 문을 닫아요?", "{p}의 닫는 시간은 언제예요?", "{p:은} 언제 닫아요?", "{p} 몇 시에 닫아요?",
            "{p} 닫는 시간이 몇 시예요?", "언제 {p:이} 문을 닫아요?", "{p}의 닫는 시간을 알려 주세요.",
            "몇 시에 {p:이} 문을 닫아요?",
        ),
        "closed": (
            "{p:은} 무슨 요일에 쉬어요?", "{p}의 쉬는 날은 언제예요?", "{p:은} 언제 쉬어요?", "{p} 쉬는 요일이 뭐예요?",
            "{p} 쉬는 날이 무슨 요일이에요?", "언제 {p:이} 쉬어요?", "{p}의 쉬는 날을 알려 주세요.",
            "무슨 요일에 {p:이} 쉬어요?",
        ),
        "item": (
            "{p}에서는 뭘 팔아요?", "{p}의 대표 상품은 뭐예요?", "{p:은} 뭘로 유명해요?", "{p} 대표 상품이 뭐예요?",
            "{p}에 가면 뭘 살 수 있어요?", "무엇을 {p}에서 팔아요?", "{p}의 대표 상품을 알려 주세요.",
            "뭘 {p}에서 팔아요?",
        ),
        "price": (
            "{p}의 물건 값은 얼마예요?", "{p}의 가격은 얼마예요?", "{p}에서 하나 사면 얼마예요?",
            "{p} 가격이 얼마예요?",
            "{p}에서는 값이 얼마예요?", "얼마예요, {p} 가격은?", "{p}의 가격을 알려 주세요.",
            "얼마예요, {p}의 물건 값은?",
        ),
        "year": (
            "{p:은} 언제 생겼어요?", "{p:은} 몇 년에 생겼어요?", "{p:이} 생긴 해는 언제예요?",
            "{p:이} 생긴 게 몇 년이에요?",
            "{p:은} 몇 년에 처음 문을 열었어요?", "언제 {p:이} 생겼어요?", "{p:이} 생긴 해를 알려 주세요.",
            "몇 년에 {p:이} 생겼어요?",
        ),
        "street": (
            "{p:은} 어디에 있어요?", "{p}의 위치는 어디예요?", "{p:은} 무슨 길에 있어요?", "{p} 위치가 어디예요?",
            "{p:을} 찾으려면 어디로 가요?", "무슨 길에 {p:이} 있어요?", "{p}의 위치를 알려 주세요.",
            "어디에 {p:이} 있어요?",
        ),
        "phone": (
            "{p}의 전화번호는 뭐예요?", "{p} 전화번호가 몇 번이에요?", "{p}에 전화하려면 몇 번이에요?",
            "{p} 전화는 몇 번이에요?",
            "{p}에 전화하려면 몇 번으로 걸어요?", "몇 번으로 걸면 {p:이} 받아요?", "{p}의 전화번호를 알려 주세요.",
            "몇 번이에요, {p} 전화번호는?",
        ),
    },
    "en": {
        "owner": (
            "Who is the owner of {p}?", "Who runs {p}?", "Who owns {p}?",
            "What is the name of the owner of {p}?", "Please name the owner of {p}.",
            "{p} is run by whom?", "Tell me the owner of {p}.", "{p}: who is the owner?",
        ),
        "open": (
            "When does {p} open?", "What is the opening time of {p}?", "At what time does {p} open?",
            "What time does {p} open?", "Please give me the opening time of {p}.",
            "{p} opens at what time?", "Tell me the opening time of {p}.", "{p}: when does it open?",
        ),
        "close": (
            "When does {p} close?", "What is the closing time of {p}?", "At what time does {p} close?",
            "What time does {p} close?", "Please give me the closing time of {p}.",
            "{p} closes at what time?", "Tell me the closing time of {p}.", "{p}: when does it close?",
        ),
        "closed": (
            "On which day is {p} closed?", "What is the closed day of {p}?",
            "Which day is {p} closed?", "What day is {p} closed?",
            "Please give me the closed day of {p}.", "{p} is closed on which day?",
            "Tell me the closed day of {p}.", "{p}: on which day is it closed?",
        ),
        "item": (
            "What does {p} sell?", "What is the main product of {p}?", "What is {p} known for?",
            "What can I buy at {p}?", "Please name the main product of {p}.", "{p} sells what?",
            "Tell me the main product of {p}.", "{p}: what does it sell?",
        ),
        "price": (
            "How much does the product of {p} cost?", "What is the price at {p}?",
            "How much do I pay at {p}?", "What does it cost at {p}?",
            "Please give me the price at {p}.", "At {p}, what is the price?",
            "Tell me the price at {p}.", "{p}: what is the price?",
        ),
        "year": (
            "When was {p} founded?", "In which year was {p} founded?",
            "What is the founding year of {p}?", "What year was {p} founded?",
            "Please give me the founding year of {p}.", "{p} was founded in which year?",
            "Tell me the founding year of {p}.", "{p}: when was it founded?",
        ),
        "street": (
            "Where is {p}?", "What is the location of {p}?", "On which street is {p}?",
            "How do I find {p}?", "Please give me the location of {p}.", "{p} is on which street?",
            "Tell me the location of {p}.", "{p}: where is it?",
        ),
        "phone": (
            "What is the phone number of {p}?", "Which number do I call for {p}?",
            "What is the phone of {p}?", "How do I phone {p}?",
            "Please give me the phone number of {p}.", "{p} has which phone number?",
            "Tell me the phone number of {p}.", "{p}: what is the phone number?",
        ),
    },
}  # fmt: skip
HELD_OUT_WORDINGS = 2

FOLLOW_UPS: dict[str, dict[str, tuple[str, ...]]] = {
    "ko": {
        "owner": (
            "거기 주인은 누구예요?", "그럼 누가 운영해요?", "주인은요?", "거기는 누가 주인이에요?",
        ),
        "open": (
            "거기는 몇 시에 문을 열어요?", "그럼 언제 열어요?", "여는 시간은요?", "거기 여는 시간은 언제예요?",
        ),
        "close": (
            "거기는 몇 시에 문을 닫아요?", "그럼 언제 닫아요?", "닫는 시간은요?", "거기 닫는 시간은 언제예요?",
        ),
        "closed": (
            "거기는 무슨 요일에 쉬어요?", "그럼 언제 쉬어요?", "쉬는 날은요?", "거기 쉬는 날은 언제예요?",
        ),
        "item": (
            "거기서는 뭘 팔아요?", "그럼 뭘로 유명해요?", "대표 상품은요?", "거기 대표 상품은 뭐예요?",
        ),
        "price": (
            "거기는 가격이 얼마예요?", "그럼 하나 사면 얼마예요?", "가격은요?", "거기 가격은 얼마예요?",
        ),
        "year": (
            "거기는 언제 생겼어요?", "그럼 몇 년에 생겼어요?", "생긴 해는요?", "거기 생긴 해는 언제예요?",
        ),
        "street": (
            "거기는 어디에 있어요?", "그럼 무슨 길에 있어요?", "위치는요?", "거기 위치는 어디예요?",
        ),
        "phone": (
            "거기 전화번호가 몇 번이에요?", "그럼 몇 번으로 걸어요?", "전화번호는요?", "거기 전화번호는 뭐예요?",
        ),
    },
    "en": {
        "owner": (
            "Who is its owner?", "And who runs it?", "And the owner?", "And who is the owner?",
        ),
        "open": (
            "When does it open?", "And at what time does it open?", "And the opening time?",
            "What is its opening time?",
        ),
        "close": (
            "When does it close?", "And at what time does it close?", "And the closing time?",
            "What is its closing time?",
        ),
        "closed": (
            "On which day is it closed?", "And which day is it closed?", "And the closed day?",
            "What is its closed day?",
        ),
        "item": (
            "What does it sell?", "And what is it known for?", "And the main product?",
            "What is its main product?",
        ),
        "price": (
            "What is the price there?", "And how much do I pay there?", "And the price?",
            "And what is the price?",
        ),
        "year": (
            "When was it founded?", "And in which year was it founded?", "And the founding year?",
            "What is its founding year?",
        ),
        "street": (
            "Where is it?", "And on which street is it?", "And the location?", "What is its location?",
        ),
        "phone": (
            "What is its phone number?", "And which number do I call?", "And the phone number?",
            "And what is its phone number?",
        ),
    },
}  # fmt: skip
HELD_OUT_FOLLOW_UPS = 1

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
