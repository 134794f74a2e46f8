"""A model directory for other engines (vLLM, `transformers serve`): what they would take differently is written out.

* Every text that Hanok trains on begins with a separator, and its engine puts one before each conversation. Others send what
  the chat template says and nothing more, so the exported template begins with it.
* They load every safetensors file of a directory: heads of our own beside the weights stay behind.
* Only a public family has a class there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hanok.artefacts import create_artefact, write_json
from hanok.errors import CheckpointError, ConfigError
from hanok.models.checkpoint import TOKENIZER_FILES, load_config
from hanok.models.families import family_of
from hanok.tokens.tokenizer import Tokenizer

_PROBE = [{"role": "user", "content": "x"}]


def export(path: Path, out: Path) -> dict[str, Any]:
    """Copy the directory `path` as `out`, ready for others.

    Raises:
        ConfigError: a model that no public family expresses, or no chat template. CheckpointError: no model.
    """
    family = family_of(load_config(path))
    if family.model_type == "hanok":
        raise ConfigError(
            f"{path}: no public family expresses this model, so no other engine has a class for it",
            remedy="serve it with hanok serve; hybrids of kda and mla layers, and plain gqa models, can be exported",
        )
    tokenizer = Tokenizer.load(path)
    begins = tokenizer.encode_chat(_PROBE).ids[:1] == [tokenizer.bos_id]
    with create_artefact(
        out, kind="model", parents={"source": path}, step={"export": {"source": path.name}}
    ) as draft:
        for name in ("config.json", *TOKENIZER_FILES, *_weights(path)):
            if (path / name).is_file():
                shutil.copyfile(path / name, draft.path / name)
        if not begins:
            _begin_with(tokenizer.decode([tokenizer.bos_id], skip_special=False), draft.path)
    left = sorted({file.name for file in path.glob("*.safetensors")} - set(_weights(path)))
    return {
        "out": str(out),
        "architecture": family.architecture,
        "template_changed": not begins,
        "left_out": left,
    }


def _weights(path: Path) -> list[str]:
    """Names of the files that hold the model's tensors. Raises CheckpointError where one is missing."""
    index, names = path / "model.safetensors.index.json", ["model.safetensors"]
    if index.is_file():
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = [index.name, *sorted({Path(place).name for place in places})]
    for name in names:
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name} is missing", remedy="restore the file")
    return names


def _begin_with(token: str, directory: Path) -> None:
    """Let the chat template write this before anything else."""
    opening = "{{- " + json.dumps(token, ensure_ascii=False) + " }}"
    file = directory / "chat_template.jinja"
    if file.is_file():  # read before what tokenizer_config.json says
        file.write_text(opening + file.read_text(encoding="utf-8"), encoding="utf-8")
        return
    settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = settings["chat_template"]
    if isinstance(template, str):
        settings["chat_template"] = opening + template
    else:
        settings["chat_template"] = [{**one, "template": opening + one["template"]} for one in template]
    write_json(directory / "tokenizer_config.json", settings)
