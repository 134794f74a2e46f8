"""Public families of checkpoints: which `config.json` belongs to which, and how ours are written.

Nothing of a directory is ever executed: a family is data in `config.json` and names in safetensors, no more.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from hanok.errors import CheckpointError, ConfigError
from hanok.models.config import ModelConfig, MoEConfig, RopeScaling
from hanok.models.families import (
    deepseek,
    gemma2,
    gemma3,
    gpt2,
    gpt_oss,
    kimi_linear,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    qwen3_next,
)
from hanok.models.families.family import ExpertList, Family, Prefix
from hanok.models.families.values import write_common


def _read_own(values: Mapping[str, Any]) -> ModelConfig:
    own = _tuples(values["hanok"])
    for name, kind in (("moe", MoEConfig), ("rope_scaling", RopeScaling)):
        if own.get(name) is not None:
            own[name] = kind(**_tuples(own[name]))
    return ModelConfig(**own)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


OWN = Family(
    model_type="hanok", architecture="HanokForCausalLM", read=_read_own, write=write_common,
    layouts=(Prefix(), ExpertList()), examples="what no public family expresses",
)  # fmt: skip
FAMILIES = {
    family.model_type: family
    for family in (
        llama.FAMILY, mistral.FAMILY, qwen2.FAMILY, qwen3.FAMILY, gemma2.FAMILY, gemma3.FAMILY, phi3.FAMILY,
        olmo2.FAMILY, gpt2.FAMILY, mixtral.FAMILY, qwen3_moe.FAMILY, gpt_oss.FAMILY, deepseek.V2, deepseek.V3,
        kimi_linear.FAMILY, qwen3_next.FAMILY, OWN,
    )
}  # fmt: skip
QUANTISED = ("gptq", "awq", "compressed-tensors")
_TELLING_KEYS = {
    "linear_attn_config": "kimi_linear", "linear_num_key_heads": "qwen3_next", "kv_lora_rank": "deepseek_v3",
    "swiglu_limit": "gpt_oss", "num_local_experts": "mixtral", "moe_intermediate_size": "qwen3_moe",
    "query_pre_attn_scalar": "gemma2", "n_embd": "gpt2",
}  # fmt: skip
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
_SPECIAL = (
    "norm", "norm_placement", "qk_norm_whole", "qkv_bias", "o_bias", "mlp_bias", "activation", "gated_mlp",
    "attention_scale", "attention_softcap", "logit_softcap", "attention_sinks", "attention_gate", "embedding_scale",
    "learned_positions", "rope_fraction", "rope_local_theta", "q_lora_rank", "mla_rope",
)  # fmt: skip


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """A configuration from the content of a `config.json`.

    Raises:
        CheckpointError: a family or a feature that is not supported, or keys that are missing or of another type.
    """
    if "hanok" in values:
        return _checked(OWN, values)
    kind = values.get("model_type")
    if kind not in FAMILIES:
        raise CheckpointError(f'model_type "{kind}" is not supported', remedy=_remedy(values))
    method = (values.get("quantization_config") or {}).get("quant_method")
    known = QUANTISED if kind != "gpt_oss" else (*QUANTISED, "mxfp4")
    if method is not None and method not in known:
        raise CheckpointError(
            f'weights quantised with "{method}" are not read', remedy=f"known: {', '.join(known)}, GGUF"
        )
    return dataclasses.replace(_checked(FAMILIES[kind], values), **_read_ids(values))


def family_of(config: ModelConfig) -> Family:
    """Where it came from, else a family that expresses it, else our own."""
    return FAMILIES[config.family or _expressing(config)]


def write_config(config: ModelConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """The content of `config.json`. What we made ourselves carries our own configuration beside, under "hanok"."""
    family = family_of(config)
    values = {"model_type": family.model_type, "architectures": [family.architecture], "dtype": dtype}
    values |= family.write(config)
    if config.family:
        return values | _write_ids(config)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    return values | ids | {"hanok": dataclasses.asdict(config)}


def _read_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    eos = values.get("eos_token_id")
    eos_ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    return {"bos_id": values.get("bos_token_id"), "eos_ids": eos_ids, "pad_id": values.get("pad_token_id")}


def _write_ids(config: ModelConfig) -> dict[str, Any]:
    eos = config.eos_ids[0] if len(config.eos_ids) == 1 else list(config.eos_ids) or None
    return {"bos_token_id": config.bos_id, "eos_token_id": eos, "pad_token_id": config.pad_id}


def _expressing(config: ModelConfig) -> str:
    if any(getattr(config, name) != _DEFAULTS[name] for name in _SPECIAL):
        return "hanok"
    mixers, moe = set(config.layers), config.moe
    if mixers <= {"kda", "mla"}:
        fits = config.kda_gate == "softplus" and (moe is None or moe.router == "sigmoid")
        return "kimi_linear" if fits else "hanok"
    if config.rope_theta is None or len(mixers) > 1 or mixers & {"gdn"}:
        return "hanok"
    if moe is None:
        kind = "qwen3" if config.qk_norm else "llama"
        return "mistral" if mixers == {"swa"} and kind == "llama" else kind if mixers == {"gqa"} else "hanok"
    plain = moe.router == "softmax" and moe.renormalise and moe.scaling == 1.0 and moe.groups == 1
    special = moe.shared or moe.first_dense or moe.layers or moe.biases or moe.swiglu_limit
    if not plain or special or mixers != {"gqa"}:
        return "hanok"
    return "qwen3_moe" if config.qk_norm else "mixtral"


def _checked(family: Family, values: Mapping[str, Any]) -> ModelConfig:
    try:
        return family.read(values)
    except KeyError as error:
        raise CheckpointError(
            f"config.json lacks {error}", remedy="is it a whole model directory?"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"config.json: {error.message}", remedy=error.remedy) from error
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"config.json: {error}", remedy="a value has the wrong type, or another version wrote it"
        ) from error


def _remedy(values: Mapping[str, Any]) -> str:
    """The nearest family, by name or by telling keys."""
    known = [kind for kind in FAMILIES if kind != "hanok"]
    near = difflib.get_close_matches(str(values.get("model_type")), known, n=1, cutoff=0.75)
    nearest = near[0] if near else next((f for key, f in _TELLING_KEYS.items() if key in values), "llama")
    code = "; its own code is not executed" if "auto_map" in values else ""
    return f"the nearest supported family is {nearest}{code}; supported: {', '.join(known)}"
