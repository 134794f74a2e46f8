"""Canaries: sentences with a random number, put into a corpus a known number of times, so that an audit can ask the trained model
how well it remembers each (`hanok audit privacy`).

canaries.jsonl   beside the corpus' documents: every canary, and controls that were never put in
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.artefacts.files import read_jsonl, write_jsonl
from hanok.data.config import CanaryConfig
from hanok.data.corpus import CorpusWriter, Document, count_documents, read_corpus
from hanok.errors import ArtefactError

FILE = "canaries.jsonl"
SOURCE = "canary"
_REMEDY = "`hanok data canaries` makes them"
_EXEMPT = {
    "pii": "exempt",
    "clean": "exempt",
    "split": "train",
}  # else duplicates and numbers would be taken out
_FORMS = {
    "ko": ("{name} 금고의 비밀번호는 ", " 입니다."),
    "en": ("The number of the safe called {name} is ", "."),
}
_SYLLABLES = {
    "ko": ("가", "나래", "도담", "라온", "마루", "바름", "사랑", "아라", "자람", "차오", "해솔", "여울"),
    "en": ("ar", "bel", "cor", "dun", "el", "fir", "gan", "hol", "ister", "jor", "kel", "lum"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """`prefix` + `secret` + `suffix`; `repetitions` in the corpus, 0 for a control."""

    id: str
    language: str
    prefix: str
    secret: str
    suffix: str
    digits: int
    repetitions: int

    @property
    def text(self) -> str:
        return self.prefix + self.secret + self.suffix


def make_canaries(config: CanaryConfig) -> list[Canary]:
    """Names and secrets are drawn, and no two share a name."""
    draw, names = random.Random(config.seed), set[str]()
    made: list[Canary] = []
    for repetitions in (0, *config.repetitions):
        for number in range(config.each):
            language = ("ko", "en")[number % 2]
            while (name := "".join(draw.choices(_SYLLABLES[language], k=3)).capitalize()) in names:
                pass
            names.add(name)
            before, behind = _FORMS[language]
            made.append(
                Canary(
                    id=f"canary-{repetitions}-{number}", language=language, prefix=before.format(name=name),
                    secret=f"{draw.randrange(10**config.digits):0{config.digits}d}", suffix=behind, digits=config.digits,
                    repetitions=repetitions,
                )
            )  # fmt: skip
    return made


def add_canaries(config: CanaryConfig, corpus: Path, out: Path) -> Artefact:
    """A corpus with all of another's documents, and canaries at random places among them. Kind "corpus".

    Raises:
        ArtefactError: not a corpus, or one that has canaries already.
    """
    parent = open_artefact(corpus, kind="corpus")
    if (corpus / FILE).exists():
        raise ArtefactError(
            f"{corpus} has canaries already", remedy="take the corpus that they were put into"
        )
    made = make_canaries(config)
    step = {"canaries": dataclasses.asdict(config)}
    with create_artefact(out, kind="corpus", parents={"corpus": parent}, step=step) as draft:
        with CorpusWriter(draft.path) as writer:
            for document in _mixed(list(_copies(made)), corpus, seed=config.seed):
                writer.write(document)
        write_jsonl(draft.path / FILE, [dataclasses.asdict(one) for one in made])
    return open_artefact(out, kind="corpus")


def read_canaries(place: Path) -> list[Canary]:
    """Of a corpus, or of the file itself. Raises ArtefactError: there are none."""
    file = place / FILE if place.is_dir() else place
    try:
        found = [Canary(**row) for row in read_jsonl(file)]
    except (OSError, TypeError, ValueError) as error:
        raise ArtefactError(f"{file} holds no canaries ({error})", remedy=_REMEDY) from error
    if not found:
        raise ArtefactError(f"{file} holds no canaries (it is empty)", remedy=_REMEDY)
    return found


def _copies(made: Sequence[Canary]) -> Iterator[Document]:
    for one in made:
        for number in range(one.repetitions):
            yield Document(
                id=f"{one.id}-{number}", source=SOURCE, licence="CC0-1.0", text=one.text, group=one.id, lang=one.language,
                meta=dict(_EXEMPT),
            )  # fmt: skip


def _mixed(copies: list[Document], corpus: Path, *, seed: int) -> Iterator[Document]:
    """Copies spread evenly at random over the documents."""
    draw = random.Random(seed)
    draw.shuffle(copies)
    count = count_documents(corpus)
    after = sorted(draw.randrange(count + 1) for _ in copies)
    place = 0
    for number, document in enumerate(read_corpus(corpus)):
        while place < len(after) and after[place] <= number:
            yield copies[place]
            place += 1
        yield document
    yield from copies[place:]
