"""Which language a text is in: by its script where that decides, else by a small model (py3langid, 97 languages)."""

from __future__ import annotations

import functools
import re
from typing import Any

_SAMPLE = 2_000  # characters looked at
_FEW_LETTERS = 12
_SURE = 0.6
_HANGUL = re.compile(r"[가-힣\u3131-\u318e]")
_KANA = re.compile(r"[\u3041-\u30ff]")
_HAN = re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]")
_LETTER = re.compile(r"[^\W\d_]")


def identify(text: str) -> str:
    """ISO 639-1 code, or "und" where there are too few letters or no language is likely enough."""
    sample = text[:_SAMPLE]
    letters = len(_LETTER.findall(sample))
    if letters == 0:
        return "und"
    if len(_HANGUL.findall(sample)) >= 0.3 * letters:
        return "ko"
    if len(_KANA.findall(sample)) >= 0.1 * letters:
        return "ja"
    if len(_HAN.findall(sample)) >= 0.5 * letters:
        return "zh"
    if letters < _FEW_LETTERS:
        return "und"
    language, probability = _model().classify(sample)
    return language if probability >= _SURE else "und"


@functools.cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
