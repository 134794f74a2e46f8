"""The engine on a directory that transformers wrote: the same greedy answer."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine

TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"


def written(directory: Path) -> object:
    """A small Qwen with a byte-level tokeniser and more rows than tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer, plain.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = ["<|end|>", "<|user|>", "<|bot|>"]
    plain.train_from_iterator(["찻집은 아홉 시에 엽니다. It's open."] * 3, trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=special,
    ))  # fmt: skip
    plain.save(str(directory / "tokenizer.json"))
    settings = {
        "eos_token": "<|end|>",
        "chat_template": TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=plain.get_vocab_size() + 40, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, eos_token_id=0,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(directory)
    return model


@pytest.mark.filterwarnings("ignore")
def test_greedy_answers_are_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)
    transformers = pytest.importorskip("transformers")
    theirs = written(tmp_path)
    with closing(LocalEngine(tmp_path)) as engine:
        chat = [{"role": "user", "content": "찻집 <|end|>?"}]
        prompt = engine.tokenizer.encode_chat(chat, add_generation_prompt=True).ids
        params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
        found = engine.generate([Request(id="a", prompt_ids=prompt, params=params)])[0]
        assert isinstance(engine.tokenizer.decode(found.ids), str)
        unused = list(range(engine.tokenizer.vocab_size, engine.decoder.config.vocab_size))
    assert isinstance(theirs, transformers.PreTrainedModel)
    ids = torch.tensor([prompt])  # the mask, because it holds the token that pads
    expected = theirs.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0,
        suppress_tokens=unused,
    )[0, len(prompt) :].tolist()  # fmt: skip
    assert list(found.ids) == expected
