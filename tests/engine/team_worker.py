"""What `test_team.py` runs below `torchrun`, and alone: `python team_worker.py RESULTS MODEL...` asks each model the same
things and writes down what it said."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hanok.artefacts import write_json
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.parallel.follower import follow
from hanok.engine.parallel.leader import dismiss
from hanok.engine.parallel.team import Team, join_team

LENGTHS = (3, 1, 70, 600, 17)  # a piece of a prompt is 512 tokens, a block of the cache 64


def prompts(vocabulary: int, context: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = [min(length, context - 40) for length in LENGTHS]
    return [torch.randint(2, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def main() -> None:
    out, *directories = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    with join_team() as team:
        for directory in directories:
            if team is None or team.leads:
                results, logits_NV = ask(directory, team)
                write_json(out / f"{directory.name}.json", results)
                save_file({"logits": logits_NV}, out / f"{directory.name}.safetensors")
                if team is not None:
                    dismiss(team)
            else:
                follow(directory, team)


def ask(directory: Path, team: Team | None) -> tuple[dict[str, Any], torch.Tensor]:
    engine = LocalEngine(directory, weights="float32", max_running=3, team=team)
    try:
        texts = prompts(engine.tokenizer.vocab_size, engine.max_context)
        greedy = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
        sampled = SamplingParams(max_tokens=9, temperature=0.9, top_p=0.95, seed=3, ignore_eos=True)
        requests = [Request(id=str(i), prompt_ids=text, params=greedy) for i, text in enumerate(texts)]
        requests.append(Request(id="sampled", prompt_ids=texts[0], params=sampled))
        cancelled = asyncio.run(cancel_early(engine, requests[2]))
        answers = engine.generate(requests)
        alone = engine.generate(requests[:1])[0]
        hidden_ND = engine.embed(texts[2], 0)
        with torch.inference_mode():
            bounds = torch.tensor([0, len(texts[2])], dtype=torch.int32)
            logits_NV = engine.decoder.logits(engine.decoder(torch.tensor(texts[2]), bounds)[0])
        results = {
            "cancelled": cancelled, "answers": [list(answer.ids) for answer in answers],
            "alone": list(alone.ids), "score": engine.score(texts[4]), "hidden": float(hidden_ND.abs().mean()),
            "parameters": sum(p.numel() for p in engine.decoder.parameters()),
        }  # fmt: skip
        return results, logits_NV
    finally:
        engine.close()


async def cancel_early(engine: LocalEngine, request: Request) -> int:
    """How many tokens came before the client went away."""
    count = 0
    async with aclosing(engine.stream(request)) as deltas:  # type: ignore[type-var]
        async for _ in deltas:
            count += 1
            if count == 4:
                return count
    return count


if __name__ == "__main__":
    main()
