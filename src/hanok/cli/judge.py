"""`hanok data judge` and `hanok data revise`: data from a model's feedback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.errors import ConfigError
from hanok.improvement.judging.config import JudgeConfig, ReviseConfig
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.artefacts import Artefact
    from hanok.chat import ChatModel

SHIPPED = Path("shipped")


def judge(
    judge: str,
    out: Path,
    pairs: tuple[Path, ...] = (),
    prompts: Path | None = None,
    model: str = "",
    constitution: Path = SHIPPED,
    judge_model: str = "",
    key_variable: str = "",
    config: JudgeConfig = JudgeConfig(),
) -> dict[str, Any]:
    """A judge labels pairs of answers by a constitution, each pair in both orders; out comes data for `hanok align`.

    Args:
        judge: a model directory or run, an address (http://127.0.0.1:8080/v1), reward:DIR, likelihood:DIR, pmi:DIR, longer,
            or overlap.
        out: directory to make; killed, the same command goes on.
        pairs: files of {prompt, answers: [one, other]}; with a label (1, 2, tie) agreement with it is measured.
        prompts: in place of pairs, a file of prompts to which --model gives the answers.
        model: a model directory, a run, or an address, that answers the prompts.
        constitution: a TOML or Markdown file of principles; the shipped one by default.
        judge_model: the name that the judge's service knows its model by (the same for --model).
        key_variable: name of the environment variable with the service's key.
        config: how.
    """
    from hanok.improvement.judging.constitution import SHIPPED as OURS
    from hanok.improvement.judging.constitution import read_constitution
    from hanok.improvement.judging.judge import ChatPairJudge
    from hanok.improvement.judging.label import judge_pairs
    from hanok.improvement.judging.scores import MODELS, RULES, score_judge

    if bool(pairs) == (prompts is not None) or (prompts is not None) != bool(model):
        raise ConfigError("what is to be judged?", remedy="give --pairs, or --prompts with --model")
    _require_service((judge, model), judge_model, key_variable)
    rules = read_constitution(OURS if constitution == SHIPPED else constitution)
    lineage: dict[str, Artefact] = {}
    kind = judge.partition(":")[0]
    if judge in RULES or kind in MODELS:
        if kind in MODELS:
            lineage["judge"] = _artefact(judge.partition(":")[2])
        asked, rules_hash = score_judge(judge), ""
    else:
        speaker = _chat(judge, judge_model, key_variable, config.timeout, lineage, "judge")
        asked, rules_hash = ChatPairJudge(speaker, rules, config), rules.hash
    sampler = _chat(model, judge_model, key_variable, config.timeout, lineage, "model") if model else None
    artefact = judge_pairs(
        config,
        asked,
        [prompts] if prompts else pairs,
        out,
        sampler=sampler,
        lineage=lineage,
        rules=rules_hash,
    )
    return _done(artefact, "hanok align dpo --model MODEL --data {out}/preferences.jsonl --out OUT")


def revise(
    prompts: Path,
    model: str,
    out: Path,
    critic: str = "",
    constitution: Path = SHIPPED,
    served_model: str = "",
    key_variable: str = "",
    config: ReviseConfig = ReviseConfig(),
) -> dict[str, Any]:
    """Answers are criticised by a constitution and revised; out come conversations to tune on, and preferences.

    Args:
        prompts: a file of {id, prompt}.
        model: a model directory, a run, or an address, that gives the first answers.
        out: directory to make; killed, the same command goes on.
        critic: who criticises and revises; the model itself by default.
        constitution: a TOML or Markdown file of principles; the shipped one by default.
        served_model: the name that a service knows its model by.
        key_variable: name of the environment variable with the service's key.
        config: how.
    """
    from hanok.improvement.judging.constitution import SHIPPED as OURS
    from hanok.improvement.judging.constitution import read_constitution
    from hanok.improvement.judging.revise import revise_answers

    _require_service((model, critic), served_model, key_variable)
    rules = read_constitution(OURS if constitution == SHIPPED else constitution)
    lineage: dict[str, Artefact] = {}
    speaker = _chat(model, served_model, key_variable, config.timeout, lineage, "model")
    other = (
        _chat(critic, served_model, key_variable, config.timeout, lineage, "critic") if critic else speaker
    )
    artefact = revise_answers(config, rules, prompts, out, model=speaker, critic=other, lineage=lineage)
    return _done(artefact, "hanok data collect {out}/messages.jsonl --out CORPUS")


def _require_service(places: Sequence[str], model: str, key_variable: str) -> None:
    """Raises ConfigError: a model's name or a key, and no address that they are for."""
    if (model or key_variable) and not any(map(_is_address, places)):
        raise ConfigError(
            f"{model or key_variable} is for a service, and none is named",
            remedy="give an address that begins with http:// or https://",
        )


def _is_address(where: str) -> bool:
    return where.startswith(("http://", "https://"))


def _chat(
    where: str, model: str, key_variable: str, timeout: float, lineage: dict[str, Artefact], role: str
) -> ChatModel:
    from hanok.engine.chat import open_chat
    from hanok.recipes.runs import servable_model

    if _is_address(where):  # half of the time, so that one attempt which hangs does not use it all
        return open_chat(where, model=model, key_variable=key_variable, timeout=timeout / 2)
    directory = servable_model(Path(where))
    lineage[role] = _artefact(str(directory))
    return open_chat(str(directory))


def _artefact(directory: str) -> Artefact:
    from hanok.artefacts import open_artefact

    return open_artefact(Path(directory))


def _done(artefact: Artefact, next_command: str) -> dict[str, Any]:
    scalars = [
        (key, value) for key, value in artefact.metrics.items() if isinstance(value, (int, float, str))
    ]
    table(f"{artefact.kind} in {artefact.path}", ("measure", "value"), scalars)
    print(
        f"report: {artefact.path / 'report.html'}\nnext: {next_command.format(out=artefact.path)}",
        file=sys.stderr,
    )
    return {"path": str(artefact.path), "hash": artefact.hash, "metrics": dict(artefact.metrics)}
