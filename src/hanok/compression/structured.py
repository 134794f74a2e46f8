"""Structured pruning: channels of feed-forwards, groups of heads, experts or layers go as a whole, so that a smaller dense model
is left, really faster. What reads the rest is moved to make up for what went, as far as least squares can:

    W' = W H[:, kept] (H[kept, kept] + damp)^-1     (H: second moments of what W read)

Channels and heads go by what that leaves undone, experts by the weight that the router gave them, layers one after the other by
the KL of the model without them. Every layer keeps as many as the others: that is what configurations can say.

N outputs, K inputs of a map, I channels, E experts.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.compression.calibrate import Rows, advance, embed, moments_of
from hanok.compression.measure import Head, advance_rows, compare, embedded, kl_of, predicted
from hanok.compression.settings import CompressConfig
from hanok.compression.sizes import file_bytes
from hanok.compression.texts import read_texts
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Block, Decoder
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.linear import Linear
from hanok.models.mlp import GatedMLP, MixtureOfExperts
from hanok.reporting import Report, log, progress

Part = Literal["channels", "heads", "experts", "layers"]
_ROUNDS = 8  # in which columns go
_UNIT = 32  # channels that stay are a multiple: what the kernels' groups want


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What was left of one layer: places that stayed, and the share of the output's energy that least squares did not save."""

    kept: list[int]
    lost: float


def shrink(
    part: Part, share: float, config: CompressConfig, *, model: Path, data: Path, out: Path
) -> Artefact:  # fmt: skip
    """A smaller model directory; its metrics say what it cost before any recovery.

    Args:
        share: of the parameters of all layers that go, about.

    Raises:
        ConfigError: a model without such parts, or a share that leaves none.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share = {share}", remedy="it must lie in (0, 1)")
    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    texts = read_texts(
        data, model, samples=config.samples, held_out=config.held_out, length=config.length, seed=config.seed
    )
    source = open_artefact(model)
    step = {"shrink": {"part": part, "share": share, "data": texts.hash, "seed": config.seed}}
    decoder = load_model(model, dtype=torch.float32).requires_grad_(False)
    before = layer_parameters(decoder)
    if part == "layers":
        rows = _drop_layers(decoder, share, texts.calibration[: max(4, config.layer_windows)])
    else:
        rows = _shrink_blocks(decoder, part, share, config, texts.calibration)
    after = layer_parameters(decoder)
    with create_artefact(out, kind="model", parents={"source": source}, step=step) as draft:
        save_model(decoder.to(stored_type(model)), draft.path, tokenizer_dir=model)
        draft.metrics |= {
            "parameters_of_layers_before": before, "parameters_of_layers_after": after, "share_gone": 1 - after / before,
            **cost(model, draft.path, texts.held_out),
        }  # fmt: skip
        report = Report(f"Without {share:.0%} of its layers' parameters: {part}")
        report.add_table("Before recovery", ("measure", "value"), list(draft.metrics.items()))
        report.add_table("Layer by layer", ("layer", "what stayed or went", "lost"), rows)
        report.write(draft.path)
    return open_artefact(out, verify=False)


def layer_parameters(decoder: Decoder) -> int:
    return sum(p.numel() for p in decoder.layers.parameters())


def cost(model: Path, made: Path, windows: Sequence[np.ndarray]) -> dict[str, float]:
    """Bytes, and the distance between two directories of plain weights, whose layers may differ in number."""
    decoders = [load_model(path, dtype="stored").requires_grad_(False) for path in (model, made)]
    for decoder in decoders:
        decoder.set_compute_dtype(torch.float32)
    return {
        "bytes_before": file_bytes(model),
        "bytes_after": file_bytes(made),
        **compare(decoders[0], decoders[1], windows, keep=False).metrics(),
    }


def stored_type(model: Path) -> torch.dtype:
    """Of a directory's weights."""
    return load_model(model, dtype="stored").embed_tokens.weight.dtype


def _shrink_blocks(
    decoder: Decoder, part: Part, share: float, config: CompressConfig, windows: Sequence[np.ndarray]
) -> list[tuple[int, str, float]]:  # fmt: skip
    """Layer by layer, each on what the smaller layers before it make."""
    apply, keep = _plan(decoder, part, share)
    lengths, width = [len(ids) for ids in windows], decoder.config.hidden_size
    rows = []
    with tempfile.TemporaryDirectory() as folder, progress("shrink", len(decoder.layers), "layers") as bar:
        file = Path(folder) / "inputs-0"
        embed(decoder, windows, file)
        for number, block in enumerate(decoder.layers):
            assert isinstance(block, Block)
            inputs = Rows(file, width)
            found = apply(block, keep, inputs, lengths, config.damp)
            rows.append((number, f"{len(found.kept)} stayed", found.lost))
            file = Path(folder) / f"inputs-{number + 1}"
            advance(block, inputs, lengths, file)
            (Path(folder) / f"inputs-{number}").unlink()
            bar.advance(1)
    _say_so(decoder, part, keep)
    return rows


Apply = Callable[[Block, int, Rows, list[int], float], Shrunk]


def _plan(decoder: Decoder, part: Part, share: float) -> tuple[Apply, int]:
    """How a block is shrunk, and how many of its parts stay."""
    blocks = [block for block in decoder.layers if isinstance(block, Block)]
    total = layer_parameters(decoder)
    if part == "channels":
        if any(not isinstance(block.mlp, GatedMLP) for block in blocks):
            raise ConfigError("channels of layers that are no gated feed-forwards", remedy="shrink layers")
        return _fewer_channels, channels_left(decoder, share)
    if part == "heads":
        mixers = [b.self_attn for b in blocks]
        if any(not isinstance(m, GroupedQueryAttention) for m in mixers) or decoder.config.attention_gate:
            raise ConfigError(
                "heads of other than plain grouped-query attention", remedy="shrink channels or layers"
            )
        groups = decoder.config.kv_heads
        each = sum(p.numel() for mixer in mixers for p in mixer.parameters() if p.dim() == 2) / groups
        return _fewer_heads, _checked(groups - max(1, round(share * total / each)), groups, "groups of heads")
    moe = decoder.config.moe
    sparse = [b.mlp for b in blocks if isinstance(b.mlp, MixtureOfExperts)]
    if moe is None or moe.groups > 1 or not sparse:
        raise ConfigError("no experts in one group", remedy="shrink channels or layers")
    each = sum(p.numel() for one in sparse for p in one.experts.parameters()) / moe.experts
    keep = moe.experts - max(1, round(share * total / each))
    return _fewer_experts, _checked(keep, moe.experts, "experts", least=moe.per_token)


def channels_left(decoder: Decoder, share: float) -> int:
    """Of each feed-forward, when that share of all layers' parameters goes. Raises ConfigError: none would stay."""
    inner, each = decoder.config.mlp_width, 3 * decoder.config.hidden_size * len(decoder.layers)
    keep = round((inner - share * layer_parameters(decoder) / each) / _UNIT) * _UNIT
    return _checked(keep, inner, "channels", least=_UNIT)


def _checked(keep: int, there: int, what: str, *, least: int = 1) -> int:
    if not least <= keep < there:
        raise ConfigError(
            f"{keep} of {there} {what} would stay", remedy="choose another share, or another part"
        )
    return keep


def _fewer_channels(block: Block, keep: int, inputs: Rows, lengths: list[int], damp: float) -> Shrunk:
    mlp = block.mlp
    assert isinstance(mlp, GatedMLP)
    hessian_II = moments_of(block, inputs, lengths)["mlp.down_proj"].hessian_KK
    kept_I = best_columns(mlp.down_proj.weight, hessian_II, keep, damp)
    lost = _make_up(mlp.down_proj, hessian_II, kept_I, damp)
    for one in (mlp.gate_proj, mlp.up_proj):
        _keep_rows(one, kept_I)
    return Shrunk(kept_I.tolist(), lost)


def _fewer_heads(block: Block, keep: int, inputs: Rows, lengths: list[int], damp: float) -> Shrunk:
    mixer = block.self_attn
    assert isinstance(mixer, GroupedQueryAttention)
    groups, each = mixer.kv_heads, mixer.heads // mixer.kv_heads
    hessian_KK = moments_of(block, inputs, lengths)["self_attn.o_proj"].hessian_KK
    columns_GK = torch.arange(mixer.heads * mixer.width).view(groups, -1)
    scores = [
        _left_undone(mixer.o_proj.weight, hessian_KK, torch.cat([columns_GK[:g], columns_GK[g + 1 :]]).flatten(), damp)
        for g in range(groups)
    ]  # fmt: skip
    kept = sorted(sorted(range(groups), key=lambda g: -scores[g])[:keep])
    columns = columns_GK[kept].flatten()
    lost = _make_up(mixer.o_proj, hessian_KK, columns, damp)
    _keep_rows(mixer.q_proj, columns)
    own = torch.arange(groups * mixer.width).view(groups, -1)[kept].flatten()
    for one in (mixer.k_proj, mixer.v_proj):
        _keep_rows(one, own)
    for norm, places in ((mixer.q_norm, columns), (mixer.k_norm, own)):
        if norm is not None and mixer.config.qk_norm_whole:
            norm.weight = _parameter(norm.weight[places])
    if mixer.sinks is not None:
        mixer.sinks = _parameter(mixer.sinks.view(groups, each)[kept].flatten())
    mixer.heads, mixer.kv_heads = keep * each, keep
    return Shrunk(kept, lost)


def _fewer_experts(block: Block, keep: int, inputs: Rows, lengths: list[int], damp: float) -> Shrunk:
    mlp = block.mlp
    if not isinstance(mlp, MixtureOfExperts):
        return Shrunk([], 0.0)
    mass_E = torch.zeros(mlp.gate.config.experts)

    def watch(_: nn.Module, args: tuple[Tensor, ...], out: tuple[Tensor, Tensor]) -> None:
        mass_E.index_add_(0, out[0].flatten(), out[1].flatten().float())

    handle = mlp.gate.register_forward_hook(watch)
    try:
        moments_of(block, inputs, lengths)
    finally:
        handle.remove()
    kept_E = mass_E.topk(keep).indices.sort().values
    for name, tensor in (*mlp.experts.named_parameters(), *mlp.gate.named_parameters()):
        owner = mlp.experts if name in dict(mlp.experts.named_parameters()) else mlp.gate
        owner.register_parameter(name, _parameter(tensor[kept_E]))
    if mlp.gate.config.router == "sigmoid":
        mlp.gate.e_score_correction_bias = mlp.gate.e_score_correction_bias[kept_E].clone()
    smaller = replace(mlp.gate.config, experts=keep)
    mlp.gate.config = mlp.experts.config = smaller
    return Shrunk(kept_E.tolist(), 1 - float(mass_E[kept_E].sum() / mass_E.sum().clamp(min=1e-30)))


def _say_so(decoder: Decoder, part: Part, keep: int) -> None:
    config = decoder.config
    if part == "channels":
        decoder.config = replace(config, intermediate_size=keep)
    elif part == "heads":
        each = config.num_heads // config.kv_heads
        decoder.config = replace(
            config, num_heads=keep * each, num_kv_heads=keep, head_dim=config.dim_of_head
        )
    else:
        assert config.moe is not None
        decoder.config = replace(config, moe=replace(config.moe, experts=keep))


def best_columns(weight_NK: Tensor, hessian_KK: Tensor, keep: int, damp: float) -> Tensor:
    """Columns whose loss would cost most once the others have made up for it: |W_j|^2 / [H^-1]_jj (optimal brain surgeon). They
    go in rounds, since of two that can stand in for each other both look free until one is gone."""
    kept = torch.arange(weight_NK.shape[1])
    going = -(-(len(kept) - keep) // _ROUNDS)
    while len(kept) > keep:
        inverse = torch.linalg.inv(_damped(hessian_KK, damp)[kept][:, kept])
        scores = _moved(weight_NK, hessian_KK, kept, damp).square().sum(0) / inverse.diagonal()
        kept = kept[scores.topk(max(keep, len(kept) - going)).indices.sort().values]
    return kept


def _make_up(reader: Linear, hessian_KK: Tensor, kept: Tensor, damp: float) -> float:
    """Leave the reader with the kept inputs and the weights that do best with them. Returns the share of energy lost."""
    weight_NK = reader.weight.double()
    lost = _left_undone(weight_NK, hessian_KK, kept, damp)
    reader.weight = _parameter(_moved(weight_NK, hessian_KK, kept, damp).to(reader.weight.dtype))
    energy = float((weight_NK @ hessian_KK.double() * weight_NK).sum())
    return lost / max(energy, 1e-30)


def _moved(weight_NK: Tensor, hessian_KK: Tensor, kept: Tensor, damp: float) -> Tensor:
    damped = _damped(hessian_KK, damp)
    return torch.linalg.solve(damped[kept][:, kept], damped[kept] @ weight_NK.double().T).T


def _left_undone(weight_NK: Tensor, hessian_KK: Tensor, kept: Tensor, damp: float) -> float:
    weight_NK = weight_NK.double()
    lost_NK = weight_NK.clone()
    lost_NK[:, kept] -= _moved(weight_NK, hessian_KK, kept, damp)
    return float((lost_NK @ hessian_KK.double() * lost_NK).sum())


def _damped(hessian_KK: Tensor, damp: float) -> Tensor:
    hessian_KK = hessian_KK.double()
    eye = torch.eye(len(hessian_KK), dtype=torch.float64)
    return hessian_KK + damp * hessian_KK.diagonal().mean().clamp(min=1e-12) * eye


def _keep_rows(one: Linear, rows: Tensor) -> None:
    one.weight = _parameter(one.weight[rows])
    if one.bias is not None:
        one.bias = _parameter(one.bias[rows])


def _drop_layers(
    decoder: Decoder, share: float, windows: Sequence[np.ndarray]
) -> list[tuple[int, str, float]]:
    """One after the other, that one first whose absence changes the law of the next token least."""
    config = decoder.config
    count = round(share * len(decoder.layers))
    _checked(len(decoder.layers) - count, len(decoder.layers), "layers")
    lengths = [len(ids) for ids in windows]
    ids_T = torch.from_numpy(np.concatenate(windows).astype(np.int64))
    places, _ = predicted(ids_T, lengths)
    head = Head(decoder, 16)

    def hidden(blocks: Sequence[nn.Module]) -> Tensor:
        x_TD = embedded(decoder, ids_T, lengths)
        for block in blocks:
            advance_rows(block, x_TD, lengths)
        return decoder.norm(x_TD)

    own_TD = hidden(list(decoder.layers))
    left, rows = list(range(len(decoder.layers))), []
    with progress("drop", count, "layers") as bar:
        for _ in range(count):
            costs = {}
            for number in left:
                other_TD = hidden([decoder.layers[n] for n in left if n != number])
                parts = [kl_of(head(own_TD[p]), head(other_TD[p])) for p in places.split(head.rows)]
                costs[number] = float(torch.cat(parts).double().mean())
            gone = min(costs, key=costs.__getitem__)
            left.remove(gone)
            rows.append((gone, "went", costs[gone]))
            log.info("layer %d goes: KL %.4f", gone, costs[gone])
            bar.advance(1)
    decoder.layers = nn.ModuleList(decoder.layers[n] for n in left)
    pattern, moe = tuple(config.layers[n] for n in left), config.moe
    if moe is not None:
        sparse = tuple(new for new, old in enumerate(left) if config.is_sparse(old))
        moe = dataclasses.replace(moe, layers=sparse, first_dense=0)
    decoder.config = replace(config, num_layers=len(left), pattern=pattern, moe=moe)
    return rows


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(), requires_grad=False)
