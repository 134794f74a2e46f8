"""The model card, `run/model/README.md`: what it is, what it learnt from and under which licences, how good it is.

Its head is YAML as the model hubs read it. Everything in it comes from the run's own files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, write_atomic
from hanok.data.corpus import iter_tables
from hanok.models.checkpoint import load_config
from hanok.models.families import family_of
from hanok.recipes.align import alignment_changes
from hanok.recipes.base import changes
from hanok.recipes.recipe import Recipe

CARD = "README.md"
_ORIGIN = ("source", "licence", "lang")
_TITLES = {
    "text": "Held-out text, bits per byte",
    "chat": "Held-out answers, bits per byte",
    "text-replay": "Held-out general text, bits per byte",
    "chat-replay": "Held-out general answers, bits per byte",
}


def write_card(run: Path, recipe: Recipe, done: Mapping[str, Artefact]) -> None:
    """Write it beside the servable model; it lies outside the hashed files."""
    model = (run / "model").resolve()
    sources: Counter[tuple[str, ...]] = Counter()
    for split in ("split", "replay-split"):
        for rows in iter_tables(done[split].path / "train", columns=_ORIGIN) if split in done else ():
            sources.update(zip(*(rows[name].to_pylist() for name in _ORIGIN), strict=True))
    origins = [(*(part or "-" for part in key), f"{n:,}") for key, n in sources.most_common()]
    licences = {key[1] for key in sources}
    config = load_config(model)
    family = family_of(config).model_type
    head = {
        "library_name": "transformers" if family != "hanok" else "hanok",
        "pipeline_tag": "text-generation", "language": sorted({key[2] for key in sources if key[2]}),
        "license": str(next(iter(licences))).lower() if len(licences) == 1 else "other", "tags": ["hanok", family],
    }  # fmt: skip
    trained = done["pretrain"].metrics
    parts = [
        "---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", "",
        f"# {run.name}", "", recipe.description or "A language model of one's own.", "",
        f"{trained['parameters']:,} parameters, `{family}`: {', '.join(_runs(config.layers))}; width "
        f"{config.hidden_size}, vocabulary {config.vocab_size:,}, context {config.max_context:,} tokens.",
        "", "## Use", "", "```", f"hanok chat {run}", "```", "", *_python(family),
        "## Data", "", "Documents and conversations in the training part, after cleaning and decontamination:", "",
        *_table(("source", "licence", "language", "documents"), origins),
        "## Training", "",
        *_table(("step", "tokens", "steps", "minutes"), [
            (name, f"{done[name].metrics['tokens']:,}", f"{done[name].metrics['steps']:,}",
             f"{done[name].metrics['seconds'] / 60:.1f}")
            for name in done if name in ("pretrain", "sft") or name.startswith("align-")
        ]),
        "## Evaluation", "", *_evaluation(done["verify"].metrics), *_before(done),
        "## Limits", "",
        "It knows what its data say and little else, and it was measured on nothing but the questions above. "
        "The licences of the data, named above, hold for what is made from them"
        + (", and so does that of the model that it started from." if "base" in done else "."), "",
        "## Lineage", "",
        *_table(("step", "artefact", "hash"), [(name, a.kind, f"`{a.hash[:16]}`") for name, a in done.items()]),
    ]  # fmt: skip
    write_atomic(model / CARD, "\n".join(parts))


def _evaluation(metrics: Mapping[str, Any]) -> list[str]:
    bits = [(_TITLES[k], metrics[f"bits_per_byte.{k}"]) for k in _TITLES if f"bits_per_byte.{k}" in metrics]
    lines = _table(("measure", "value"), [(title, f"{value:.3f}") for title, value in bits])
    village = {k.removeprefix("village."): v for k, v in metrics.items() if k.startswith("village.")}
    if not village:
        return lines
    count = village.pop("questions")
    rows = [(name.replace("_", " ").replace(".", ", "), f"{value:.1%}") for name, value in village.items()]
    title = f"{count:,} held-out questions about the village, checked by program:"
    return [*lines, title, "", *_table(("kind", "right"), rows)]


def _before(done: Mapping[str, Artefact]) -> list[str]:
    rows = [(title, f"{a:.3f}", f"{b:.3f}", f"{change:+.1%}") for title, a, b, change in changes(done)]
    if not rows:
        return []
    return [
        "The model that it started from, and this one, in bits per byte:", "",
        *_table(("measure", "before", "after", "change"), rows), *_aligned(done),
    ]  # fmt: skip


def _aligned(done: Mapping[str, Artefact]) -> list[str]:
    rows = [
        (kind, *(f"{share:.1%}" for share in shares), f"{low:+.1%} to {high:+.1%}")
        for kind, *shares, low, high in alignment_changes(done)
    ]
    if not rows:
        return []
    title = "Right answers before and after alignment, with the 95 % interval of the change:"
    return [title, "", *_table(("questions", "before", "after", "change", "interval"), rows)]


def _python(family: str) -> list[str]:
    if family == "hanok":
        return []
    return [
        "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
        'model = AutoModelForCausalLM.from_pretrained("this folder")',
        'tokenizer = AutoTokenizer.from_pretrained("this folder")', "```", "",
    ]  # fmt: skip


def _runs(layers: Iterable[str]) -> list[str]:
    return [f"{count} {kind}" for kind, count in Counter(layers).items()]


def _table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    lines = [list(columns)]
    lines += [["---"] * len(lines[0]), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
