"""Words that an answer may not contain, as token sequences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hanok.tokens.tokenizer import Tokenizer


class BannedWords:
    """A word is banned in the tokens that the tokeniser gives it at the start of a text, within one, and after a space. A word
    of several tokens is banned by banning its last one where the others have just come. The same letters cut
    otherwise (a word that another word contains, a model that spells) are not found."""

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str]) -> None:
        plain = [word.strip() for word in words]
        forms = [
            *tokenizer.encode_batch(plain),
            *tokenizer.encode_batch([form for word in plain for form in (word, f" {word}")], first=False),
        ]
        sequences = dict.fromkeys(map(tuple, forms))
        self._always = tuple(dict.fromkeys(ids[0] for ids in sequences if len(ids) == 1))
        self._after: dict[int, list[tuple[int, ...]]] = defaultdict(list)  # by the last token but one
        for ids in sequences:
            if len(ids) > 1:
                self._after[ids[-2]].append(ids)

    def after(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Tokens that may not follow an answer."""
        candidates = self._after.get(ids[-1], ()) if ids else ()
        ends = [
            word[-1] for word in candidates if tuple(ids[max(0, len(ids) - len(word) + 1) :]) == word[:-1]
        ]
        return (*self._always, *ends)
