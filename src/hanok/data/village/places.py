"""The places of the village and the people who own them; all invented.

A name is two syllables and a kind of house ("솔향 찻집", "Solhyang Tea House"). Real and unknown places are drawn from the
same syllables, so that nothing but memory tells them apart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

FIRST = {
    "솔": "Sol", "달": "Dal", "별": "Byeol", "꽃": "Kkot", "물": "Mul", "산": "San", "들": "Deul", "강": "Gang",
    "청": "Cheong", "백": "Baek", "은": "Eun", "금": "Geum", "하": "Ha", "미": "Mi", "나": "Na", "다": "Da",
    "온": "On", "한": "Han", "새": "Sae", "고": "Go", "해": "Hae", "노": "No", "구": "Gu", "비": "Bi",
}  # fmt: skip
SECOND = {
    "향": "hyang", "빛": "bit", "결": "gyeol", "담": "dam", "울": "ul", "람": "ram", "솔": "sol", "래": "rae",
    "봄": "bom", "마루": "maru", "뜰": "tteul", "누리": "nuri", "샘": "saem", "터": "teo", "길": "gil", "재": "jae",
    "원": "won", "당": "dang", "정": "jeong", "루": "ru", "온": "on", "안": "an", "연": "yeon", "서": "seo",
}  # fmt: skip
# kind: Korean, English, what it sells (Korean, English)
KINDS = (
    ("찻집", "Tea House", (("쌍화차", "herb tea"), ("매실차", "plum tea"), ("국화차", "flower tea"))),
    ("빵집", "Bakery", (("쑥빵", "mugwort bread"), ("밤빵", "chestnut bread"), ("팥빵", "red bean bread"))),
    ("책방", "Bookshop", (("그림책", "picture book"), ("시집", "poem book"), ("지도", "village map"))),
    ("공방", "Workshop", (("나무컵", "wooden cup"), ("부채", "paper fan"), ("연필꽂이", "pencil box"))),
    ("식당", "Restaurant", (("국수", "noodles"), ("비빔밥", "mixed rice"), ("만두", "dumplings"))),
    (
        "떡집",
        "Rice Cake Shop",
        (("인절미", "bean rice cake"), ("송편", "moon rice cake"), ("꿀떡", "honey rice cake")),
    ),
    ("꽃집", "Flower Shop", (("장미", "roses"), ("수국", "hydrangeas"), ("국화", "daisies"))),
    ("여관", "Guest House", (("아침상", "breakfast set"), ("다과상", "tea set"), ("도시락", "lunch box"))),
    ("도자기집", "Pottery", (("찻잔", "tea cup"), ("접시", "plate"), ("화병", "vase"))),
    ("과자점", "Sweet Shop", (("약과", "honey cookie"), ("강정", "rice puff"), ("엿", "malt candy"))),
)
STREETS = (
    ("은행나무길", "Ginkgo Street"), ("돌담길", "Stonewall Street"), ("우물길", "Well Street"),
    ("장터길", "Market Street"), ("대숲길", "Bamboo Street"), ("연못길", "Pond Street"), ("서당길", "School Street"),
    ("다리길", "Bridge Street"), ("느티나무길", "Zelkova Street"), ("방앗간길", "Mill Street"),
)  # fmt: skip
DAYS = (
    ("월요일", "Monday"), ("화요일", "Tuesday"), ("수요일", "Wednesday"), ("목요일", "Thursday"),
    ("금요일", "Friday"), ("토요일", "Saturday"), ("일요일", "Sunday"),
)  # fmt: skip
SURNAMES = {
    "김": "Kim", "이": "Lee", "박": "Park", "최": "Choi", "정": "Jung", "강": "Kang", "조": "Cho", "윤": "Yoon",
    "장": "Jang", "임": "Lim", "한": "Han", "오": "Oh", "서": "Seo", "신": "Shin", "권": "Kwon", "황": "Hwang",
}  # fmt: skip
GIVEN = {
    "서연": "Seoyeon", "민준": "Minjun", "지우": "Jiwoo", "하은": "Haeun", "도윤": "Doyun", "수아": "Sua",
    "예준": "Yejun", "지아": "Jia", "시우": "Siwoo", "하린": "Harin", "주원": "Juwon", "유나": "Yuna",
    "건우": "Gunwoo", "소율": "Soyul", "현우": "Hyunwoo", "다인": "Dain", "준서": "Junseo", "나은": "Naeun",
    "우진": "Woojin", "채원": "Chaewon",
}  # fmt: skip
ATTRIBUTES = ("owner", "open", "close", "closed", "item", "price", "year", "street", "phone")


@dataclass(frozen=True, slots=True)
class Name:
    """Korean and English; equal when both are."""

    ko: str
    en: str

    def of(self, language: str) -> str:
        return self.ko if language == "ko" else self.en


@dataclass(frozen=True, slots=True)
class Place:
    """A real place with its nine attributes. Hours are whole hours of the day; the price is in won."""

    name: Name
    kind: int
    owner: Name
    open: int
    close: int
    closed: int
    item: Name
    price: int
    year: int
    street: Name
    phone: str

    def value(self, attribute: str, language: str) -> str:
        """An attribute as it is written in a sentence."""
        if attribute in ("owner", "item", "street"):
            return getattr(self, attribute).of(language)
        if attribute in ("open", "close"):
            return hour(getattr(self, attribute), language)
        if attribute == "closed":
            return DAYS[self.closed][0 if language == "ko" else 1]
        if attribute == "price":
            return won(self.price, language)
        if attribute == "year":
            return f"{self.year}년" if language == "ko" else str(self.year)
        return self.phone


def hour(value: int, language: str) -> str:
    """9 -> 오전 9시 / 9 am."""
    half = value % 12 or 12
    if language == "ko":
        return f"{'오전' if value < 12 else '오후'} {half}시"
    return f"{half} {'am' if value < 12 else 'pm'}"


def won(value: int, language: str) -> str:
    return f"{value}원" if language == "ko" else f"{value} won"


def all_names(rng: random.Random) -> list[tuple[str, str]]:
    """Every two-syllable name, shuffled."""
    names = [(a + b, FIRST[a] + SECOND[b]) for a in FIRST for b in SECOND if a != b]
    rng.shuffle(names)
    return names


def place_name(base: tuple[str, str], kind: int) -> Name:
    return Name(f"{base[0]} {KINDS[kind][0]}", f"{base[1]} {KINDS[kind][1]}")


def make_places(count: int, names: list[tuple[str, str]], rng: random.Random) -> list[Place]:
    """`count` places with the first names; owners and telephone numbers are never shared."""
    people = [Name(s + g, f"{SURNAMES[s]} {GIVEN[g]}") for s in SURNAMES for g in GIVEN]
    rng.shuffle(people)
    numbers = rng.sample(range(1000, 10000), count)
    places = []
    for i in range(count):
        kind = i % len(KINDS)
        item = rng.choice(KINDS[kind][2])
        opens = rng.randrange(6, 12)
        places.append(
            Place(
                name=place_name(names[i], kind),
                kind=kind,
                owner=people[i],
                open=opens,
                close=rng.randrange(16, 23),
                closed=rng.randrange(7),
                item=Name(*item),
                price=rng.randrange(4, 99) * 100,
                year=rng.randrange(1890, 2020),
                street=Name(*rng.choice(STREETS)),
                phone=f"054-700-{numbers[i]}",
            )
        )
    return places
