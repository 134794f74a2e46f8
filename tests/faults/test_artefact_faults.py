"""Artefacts from outside that mean harm (F36): each is refused before anything of it is used, and the canary file is never made.
Each has its control: something that takes the artefact at its word, and makes the canary.

What a header, a template or a pickle can hold is tried at length in tests/models/test_weights.py and tests/tokens/test_public.py.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import tiny_models

from hanok.artefacts import create_artefact, open_artefact
from hanok.data.readers.files import open_sources
from hanok.errors import ArtefactError, CheckpointError, ConfigError, HanokError, InputError
from hanok.guard.linear import LinearDetector
from hanok.models.checkpoint import load_model
from hanok.models.lora import read_adapter
from hanok.tokens.template import ChatTemplate
from hanok.tokens.tokenizer import MOST_BYTES, Tokenizer

pytestmark = pytest.mark.faults


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.path).touch, ()


def readers() -> dict[str, Callable[[Path], object]]:
    """What reads weights, each with the name that it looks for."""
    return {
        "model.safetensors": lambda file: load_model(file.parent),
        "adapter_model.safetensors": lambda file: read_adapter(load_model(file.parent), file.parent),
        "detector.safetensors": LinearDetector.load,
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.save_tiny_model(tmp_path / "model")


@pytest.mark.parametrize("name", readers())
def test_f36_a_pickle_in_any_clothes(model: Path, name: str) -> None:
    canary = model / "canary"
    payload = pickle.dumps(_Touch(canary))
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (model / "adapter_config.json").write_text(json.dumps(settings))
    (model / name).write_bytes(payload)
    with pytest.raises((CheckpointError, InputError)):
        readers()[name](model / name)
    if name == "model.safetensors":
        (model / name).rename(model / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="never opened"):
            load_model(model)
    assert not canary.exists()
    pickle.loads(payload)  # control
    assert canary.exists()


@pytest.mark.parametrize(
    "trick", ["header of 200 MB", "overlap", "twice", "beyond the end", "negative", "type of nobody"]
)
def test_f36_headers_of_detectors_and_models(model: Path, trick: str) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    headers = {
        "overlap": {"a": entry, "b": {**entry, "data_offsets": [4, 12]}},
        "beyond the end": {"a": {**entry, "shape": [200], "data_offsets": [0, 800]}},
        "negative": {"a": {**entry, "shape": [-2]}},
        "type of nobody": {"a": {**entry, "dtype": "PICKLE"}},
    }
    text = json.dumps(headers.get(trick, {"a": entry}))
    if trick == "twice":
        text = f'{{"a": {json.dumps(entry)}, "a": {json.dumps(entry)}}}'
    length = 200_000_000 if trick == "header of 200 MB" else len(text)
    raw = struct.pack("<Q", length) + text.encode() + bytes(12 if trick == "overlap" else 8)
    for name, read in readers().items():
        (model / "model.safetensors").write_bytes(raw)
        (model / name).write_bytes(raw)
        with pytest.raises((CheckpointError, InputError)):
            read(model / name)


def archives(where: Path, member: str) -> dict[str, Path]:
    """Archives with a member that wants to lie elsewhere, and one with a link there."""
    packed, tarred, linked = where / "a.zip", where / "a.tar", where / "l.tar"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, "gone out")
    with tarfile.open(tarred, "w") as archive:
        info = tarfile.TarInfo(member)
        info.size = 8
        archive.addfile(info, io.BytesIO(b"gone out"))
    with tarfile.open(linked, "w") as archive:
        link = tarfile.TarInfo("door.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return {"zip": packed, "tar": tarred, "link": linked}


@pytest.mark.parametrize("absolute", [False, True])
def test_f36_archives_that_reach_out(tmp_path: Path, absolute: bool) -> None:
    """Members are read where they lie, as streams: no name of theirs is ever a path here."""
    inside, canary = tmp_path / "deep" / "inside", tmp_path / "canary.txt"
    inside.mkdir(parents=True)
    member = str(canary) if absolute else "../../canary.txt"
    made = archives(inside, member)
    before = sorted(tmp_path.rglob("*"))
    read = {way: [one.stream.read() for one in open_sources(file.name, file)] for way, file in made.items()}
    assert read == {"zip": [b"gone out"], "tar": [b"gone out"], "link": []}
    assert sorted(tmp_path.rglob("*")) == before
    with zipfile.ZipFile(made["zip"]) as archive:  # control: who joins names to a folder
        (inside / archive.namelist()[0]).write_bytes(archive.read(archive.namelist()[0]))
    assert canary.read_bytes() == b"gone out"


def test_f36_templates_that_run_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    shell = f"system('touch {canary}')"
    attack = "{{ cycler.__init__.__globals__.os." + shell + " }}"
    ways = [
        attack,
        attack.replace("cycler", "joiner"),
        attack.replace("cycler.__init__", "lipsum"),
        "{{ (cycler|attr('__init__')|attr('__globals__'))['os']." + shell + " }}",
        "{{ '{0.__init__.__globals__[os]}'.format(cycler) }}{% include '/etc/passwd' %}",
    ]
    for source in ways:
        with pytest.raises((ConfigError, InputError)):
            ChatTemplate(source, ["<|x|>"]).render([{"role": "user", "content": "hello"}])
        assert not canary.exists(), source
    plain = ChatTemplate("{{ messages[0].content }}", ["<|x|>"])  # content is no template
    assert plain.render([{"role": "user", "content": attack}])[0].text == attack
    assert not canary.exists()
    jinja2.Environment().from_string(attack).render()  # control
    assert canary.exists()


def test_f36_an_oversized_tokeniser(tmp_path: Path) -> None:
    """Refused by its size, before a byte of it is read: the file is a hole of the file system."""
    for name in ("tokenizer.json", "tokenizer.model"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(MOST_BYTES + 1)
        with pytest.raises(ArtefactError, match="more than"):
            Tokenizer.load(tmp_path)
        with (tmp_path / name).open(
            "wb"
        ) as file:  # control: one of another size is read, and found to be none
            file.truncate(64)
        with pytest.raises(HanokError) as caught:
            Tokenizer.load(tmp_path)
        assert "more than" not in str(caught.value)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("change", ["content", "manifest", "both"])
def test_f36_directories_whose_hashes_are_not_theirs(tmp_path: Path, change: str) -> None:
    """Not a signature: who may write the directory may write a manifest that fits, which is the control."""
    path = tmp_path / "made"
    with create_artefact(path, kind="model") as draft:
        (draft.path / "weights").write_bytes(b"as they were")
    known = open_artefact(path).hash
    manifest = json.loads((path / "artefact.json").read_text())
    if change != "manifest":
        (path / "weights").write_bytes(b"AS THEY WERE")
    if change != "content":
        manifest["files"]["weights"]["sha256"] = "0" * 64
        (path / "artefact.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError):
        open_artefact(path)
    (path / "artefact.json").unlink()
    assert (open_artefact(path).hash == known) is False  # whoever wrote down the hash notices
