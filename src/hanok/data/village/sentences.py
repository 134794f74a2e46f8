"""How each fact is stated: five wordings in documents, of which the first is also the wording of an answer."""

from __future__ import annotations

STATEMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "ko": {
        "owner": (
            "{p}의 주인은 {v:이에요}.", "{p:은} {v:이} 운영해요.", "{v:은} {p}의 주인이에요.", "{p} 주인 이름은 {v:이에요}.",
            "{p:을} 지키는 사람은 주인 {v:이에요}.",
        ),
        "open": (
            "{p:은} {v}에 문을 열어요.", "{p}의 여는 시간은 {v:이에요}.", "{v}가 되면 {p:이} 문을 열어요.",
            "{p:은} 아침마다 {v}에 열어요.", "{p} 문 여는 때는 {v:이에요}.",
        ),
        "close": (
            "{p:은} {v}에 문을 닫아요.", "{p}의 닫는 시간은 {v:이에요}.", "{v}가 되면 {p:이} 문을 닫아요.",
            "{p:은} 저녁마다 {v}에 닫아요.", "{p} 문 닫는 때는 {v:이에요}.",
        ),
        "closed": (
            "{p:은} {v}에 쉬어요.", "{p}의 쉬는 날은 {v:이에요}.", "{v}에는 {p:이} 쉬어요.", "{p:은} 매주 {v}에 쉬어요.",
            "{p} 쉬는 날은 매주 {v:이에요}.",
        ),
        "item": (
            "{p}에서는 {v:을} 팔아요.", "{p}의 대표 상품은 {v:이에요}.", "{p:은} {v:으로} 유명해요.",
            "{v:을} 사려면 {p:으로} 가요.", "{p}에서 파는 것은 {v:이에요}.",
        ),
        "price": (
            "{p}의 {i} 값은 {v:이에요}.", "{p}에서 {i:은} {v:이에요}.", "{p}의 {i} 가격은 {v:이에요}.",
            "{p}에서 {i:을} 사면 {v:이에요}.", "{i} 하나에 {v:이에요}, {p}에서요.",
        ),
        "year": (
            "{p:은} {v}에 생겼어요.", "{p:은} {v}에 처음 문을 열었어요.", "{v}에 {p:이} 생겼어요.",
            "{p:이} 생긴 해는 {v:이에요}.", "{p}의 역사는 {v}에 시작됐어요.",
        ),
        "street": (
            "{p:은} {v}에 있어요.", "{p}의 위치는 {v:이에요}.", "{v}에 가면 {p:이} 있어요.", "{v:으로} 가면 {p:이} 있어요.",
            "{p:을} 찾으려면 {v:으로} 가요.",
        ),
        "phone": (
            "{p}의 전화번호는 {v:이에요}.", "{p} 전화는 {v:이에요}.", "{v:으로} 걸면 {p:이} 받아요.",
            "{p} 전화번호는 {v:이에요}.", "{p}에 전화하려면 {v:으로} 걸어요.",
        ),
    },
    "en": {
        "owner": (
            "The owner of {p} is {v}.", "{p} is run by {v}.", "{v} is the owner of {p}.", "{v} runs {p}.",
            "The owner who keeps {p} is {v}.",
        ),
        "open": (
            "{p} opens at {v}.", "The opening time of {p} is {v}.", "At {v}, {p} opens.", "{p} opens every morning at {v}.",
            "You can enter {p} when it opens at {v}.",
        ),
        "close": (
            "{p} closes at {v}.", "The closing time of {p} is {v}.", "At {v}, {p} closes.", "{p} closes every evening at {v}.",
            "You must leave {p} when it closes at {v}.",
        ),
        "closed": (
            "{p} is closed on {v}.", "The closed day of {p} is {v}.", "On {v}, {p} is closed.",
            "{p} is closed every {v}.", "{p} takes its day off on {v}.",
        ),
        "item": (
            "{p} sells {v}.", "The main product of {p} is {v}.", "{p} is known for {v}.", "For {v}, go to {p}.",
            "What {p} sells is {v}.",
        ),
        "price": (
            "The price of {i} at {p} is {v}.", "At {p}, the price of {i} is {v}.", "{p} sells {i} for {v}.",
            "You get {i} at {p} for {v}.", "You pay {v} for {i} at {p}.",
        ),
        "year": (
            "{p} was founded in {v}.", "{p} first opened in the year {v}.", "In {v}, {p} was founded.",
            "The founding year of {p} is {v}.", "The history of {p} began in {v}.",
        ),
        "street": (
            "{p} is on {v}.", "The location of {p} is {v}.", "On {v} you find {p}.", "Go to {v} for {p}.",
            "To find {p}, go to {v}.",
        ),
        "phone": (
            "The phone number of {p} is {v}.", "The phone of {p} is {v}.", "Call {v} for {p}.",
            "{p} has the phone number {v}.", "To phone {p}, call {v}.",
        ),
    },
}  # fmt: skip

UNKNOWN: dict[str, str] = {
    "ko": "{p:은} 이 마을에 없는 곳이라 몰라요.",
    "en": "I do not know {p}; it is not in this village.",
}
