"""What users are told: that a generative AI answers, which one, and what of its output they carry away (Korea's Act on the
Development of Artificial Intelligence and Establishment of Trust, Act No. 20676, Article 31, in force since 22 January 2026).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hanok.artefacts.directory import MANIFEST
from hanok.errors import ArtefactError
from hanok.guard.protection import TransparencyPolicy

HEADER = "X-AI-Generated"  # of every answer that a model wrote
LABELS = {"ko": "AI 생성", "en": "AI-generated"}
NOTICES = {
    "ko": "이 서비스의 답변은 생성형 인공지능이 만들며, 사실과 다를 수 있습니다.",
    "en": "Answers of this service are made by generative artificial intelligence and may be wrong.",
}
LAW = "Republic of Korea, Act No. 20676, Article 31"
_CARD = "README.md"
_MOST_CARD = 400_000  # characters
_SHOWN = ("kind", "hash", "created", "code", "metrics")


def notice_of(policy: TransparencyPolicy) -> dict[str, str]:
    """By language: the policy's own words, else ours."""
    own = {"ko": policy.notice_ko, "en": policy.notice_en}
    return {language: own[language] or text for language, text in NOTICES.items()}


def notice_hash(policy: TransparencyPolicy) -> str:
    """Of the words, so that an audit tells which were shown without repeating them."""
    return hashlib.sha256(json.dumps(notice_of(policy), sort_keys=True).encode()).hexdigest()


def mark_of(models: Iterable[str]) -> dict[str, Any]:
    """For programs: in an exported file, beside what a model wrote."""
    return {"ai_generated": True, "models": sorted(set(models)), "label": LABELS}


def card_of(directory: Path, run: Path | None) -> dict[str, Any]:
    """What is written about a model and where it comes from; no settings, which may name places of this machine.

    Raises:
        ArtefactError: a manifest that cannot be read.
    """
    file = directory / _CARD
    card = file.read_text(encoding="utf-8", errors="replace")[:_MOST_CARD] if file.is_file() else None
    own = _manifest(directory)
    known = {one["hash"]: one for one in _manifests(run)} if run is not None else {}
    return {"card": card, **_shown(own), "lineage": list(_lineage(own, known))}


def _lineage(own: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Parents, and theirs, each once; of those that lie elsewhere the hash alone."""
    waiting, seen = list(own.get("parents", {}).items()), set[str]()
    while waiting:
        role, digest = waiting.pop(0)
        if digest in seen:
            continue
        seen.add(digest)
        parent = known.get(digest, {})
        yield {"role": role, "hash": digest, **_shown(parent)}
        waiting += parent.get("parents", {}).items()


def _shown(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: manifest[name] for name in _SHOWN if name in manifest}


def _manifests(run: Path) -> Iterable[Mapping[str, Any]]:
    for file in sorted(run.glob(f"*/{MANIFEST}")):
        try:
            found = _manifest(file.parent)
        except ArtefactError:
            continue  # a step that is being written anew
        if "hash" in found:
            yield found


def _manifest(directory: Path) -> Mapping[str, Any]:
    """Empty for a model from elsewhere, which has none."""
    file = directory / MANIFEST
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ArtefactError(f"{file} cannot be read ({error})", remedy="run the step again") from error
