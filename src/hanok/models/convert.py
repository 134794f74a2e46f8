"""From one form of a model to another, the tokeniser carried along: GGUF, safetensors, an adapter merged in, merges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import create_artefact
from hanok.errors import ArtefactError, ConfigError
from hanok.models.checkpoint import TOKENIZER_FILES, assemble, load_model, save_model, save_quantised
from hanok.models.checkpoint.gguf import GGUFFile, load_gguf, save_gguf
from hanok.models.coded import CodedParameter
from hanok.models.decoder import Decoder
from hanok.models.lora import Merged, load_adapter
from hanok.models.merge import MergeConfig, merge
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer

_GGUF = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "q8_0": "Q8_0"}
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BITS = {"int4": 4, "int8": 8}


def convert(
    path: Path,
    out: Path,
    *,
    dtype: str = "stored",
    weights: str = "stored",
    adapter: Path | None = None,
    tokenizer: Path | None = None,
) -> dict[str, Any]:
    """Write `path` as `out`: a directory, or a GGUF file if its name ends so.

    Args:
        dtype: "stored", "float32", "bfloat16", "float16", and "q8_0" for GGUF.
        weights: "int4" or "int8" make a quantised directory; `dtype` is then that of what stays plain. Codes of that width that
            the source has, or of fewer bits, stay as they are.

    Raises:
        ConfigError: a type that the form does not have. CheckpointError: a model that it does not express.
    """
    to_gguf = out.suffix == ".gguf"
    if dtype == "q8_0" and not to_gguf:
        raise ConfigError("q8_0 is a type of GGUF files", remedy="let --out end in .gguf")
    if to_gguf and weights != "stored":
        raise ConfigError(f"{weights} is of directories", remedy="for GGUF choose --dtype q8_0")
    files = _tokenizer_files(tokenizer or path)
    coded = weights != "stored"
    model = _load(path, "stored" if coded else dtype, keep_codes=coded)
    if adapter is not None:
        load_adapter(model, adapter)
        Merged(model).keep()
    if to_gguf:
        kind = str(model.embed_tokens.weight.dtype).removeprefix("torch.") if dtype == "stored" else dtype
        save_gguf(model, out, kind=_GGUF[kind], tokenizer=files or None)
        return {"out": str(out), "type": _GGUF[kind], "bytes": out.stat().st_size}
    parents = {"source": path} if path.is_dir() else {}
    step = {
        "convert": {
            "source": path.name,
            "dtype": dtype,
            "weights": weights,
            "adapter": adapter and adapter.name,
        }
    }
    with create_artefact(out, kind="model", parents=parents, step=step) as draft:
        if weights == "stored":
            save_model(model, draft.path)
        else:
            head = (
                8 if path.suffix == ".gguf" and weights == "int4" and GGUFFile(path).has_fine_head() else None
            )
            save_quantised(model, draft.path, bits=BITS[weights], plain=_TYPES.get(dtype), head_bits=head)
        for name, content in files.items():
            (draft.path / name).write_text(content, encoding="utf-8")
    kind = dtype if weights == "stored" else weights
    return {"out": str(out), "type": kind, "bytes": sum(f.stat().st_size for f in out.glob("*.safetensors"))}


def merge_directories(
    config: MergeConfig, paths: Sequence[Path], out: Path, *, base: Path | None = None
) -> None:
    """Merge model directories into a new one with the first one's configuration and tokeniser. Raises as `merge`."""
    models = [load_model(path, dtype="stored") for path in paths]
    start = None if base is None else load_model(base, dtype="stored").state_dict()
    merged = merge(config, [model.state_dict() for model in models], start)
    model = assemble(models[0].config, merged, where=str(out))
    parents = {f"model-{n}": path for n, path in enumerate(paths, 1)} | (
        {} if base is None else {"base": base}
    )
    with create_artefact(
        out, kind="model", parents=parents, step={"merge": dataclasses.asdict(config)}
    ) as draft:
        save_model(model, draft.path, tokenizer_dir=paths[0])


def _load(path: Path, dtype: str, *, keep_codes: bool) -> Decoder:
    wanted = _TYPES | {"q8_0": torch.float32}
    if path.suffix != ".gguf":
        return load_model(path, dtype=wanted[dtype] if dtype != "stored" else "stored")
    kinds = GGUFFile(path).kinds()
    packed = [kind for kind in kinds if kind not in ("F32", "F16", "BF16")]
    stored = torch.bfloat16 if "BF16" in kinds else torch.float16
    target = stored if dtype == "stored" else wanted[dtype]
    model = load_gguf(path, dtype=target, keep_codes=keep_codes)
    kept = sum(isinstance(parameter, CodedParameter) for parameter in model.parameters())
    if packed:
        which = f"{kept} maps of layers keep their codes, the other tensors" if kept else "tensors"
        name = str(target).removeprefix("torch.")
        log.info("%s, %s: %s are dequantised to %s", path, ", ".join(packed), which, name)
    return model


def _tokenizer_files(path: Path) -> dict[str, str]:
    """Name to content; nothing where there is no tokeniser."""
    if path.suffix == ".gguf":
        try:
            return GGUFFile(path).tokenizer_files()
        except ArtefactError as error:
            log.warning("%s", error)
            return {}
    files = {name: path / name for name in TOKENIZER_FILES if (path / name).is_file()}
    if "tokenizer.json" not in files and (path / "tokenizer.model").is_file():
        return Tokenizer.load(path).files
    return {name: file.read_text(encoding="utf-8") for name, file in files.items()}
