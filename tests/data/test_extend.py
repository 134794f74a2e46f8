"""More tokens for a tokeniser: what it encoded before it still encodes, only in fewer pieces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from hanok.artefacts import create_artefact
from hanok.cli import main
from hanok.data.config_tokens import ExtendConfig, SplitConfig
from hanok.data.corpus import CorpusWriter, Document
from hanok.data.extend import extend_tokenizer
from hanok.data.split import split
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens import Tokenizer

ENGLISH = [
    "The tea house opens at nine and closes at six. It is closed on Mondays, and a cup costs 3500 won."
]
NOUNS = ("한옥", "서점", "찻집", "식당", "마을", "골목", "공방", "시장")
TEXTS = [
    f"{a} {b}은 아침 {n} 시에 열고 저녁 {n + 7} 시에 닫습니다. {b}에서는 {n}천 원짜리 차를 팔고, {a}에 가면 쉬는 날을 압니다."
    for a in NOUNS for b in NOUNS for n in range(1, 6)
]  # fmt: skip


def byte_level() -> str:
    plain = tokenizers.Tokenizer(models.BPE())
    plain.pre_tokenizer, plain.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    plain.train_from_iterator(ENGLISH * 9, trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=["<|end|>"],
    ))  # fmt: skip
    return plain.to_str()


def with_fallback() -> str:
    plain = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    plain.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    plain.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    plain.train_from_iterator(ENGLISH * 9, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    content = json.loads(plain.to_str())
    vocab = content["model"]["vocab"]
    for name in ["<|end|>", *(f"<0x{byte:02X}>" for byte in range(256))]:
        vocab.setdefault(name, len(vocab))
    content["added_tokens"] = [{
        "id": vocab["<|end|>"], "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }]  # fmt: skip
    return json.dumps(content, ensure_ascii=False)


KINDS = {"bytes": byte_level, "fallback": with_fallback}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    with create_artefact(folder / "corpus", kind="corpus") as draft, CorpusWriter(draft.path) as writer:
        for n, text in enumerate(TEXTS):
            writer.write(Document(
                id=str(n), text=text, messages=None, source="test", licence="-", group=str(n), lang="ko", meta={}
            ))  # fmt: skip
    split(SplitConfig(validation=0.1, test=0.1, decontaminate=False), folder / "corpus", folder / "split")
    return folder / "split"


def directory_of(kind: str, parent: Path) -> Path:
    (parent / "tokenizer.json").write_text(KINDS[kind](), encoding="utf-8")
    settings = {"eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (parent / "tokenizer_config.json").write_text(json.dumps(settings))
    return parent


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_encoding_joined_further(kind: str, documents: Path, tmp_path: Path) -> None:
    old = Tokenizer.load(directory_of(kind, tmp_path))
    extension = extend_tokenizer(ExtendConfig(tokens=80, min_frequency=10), tmp_path, documents)
    new = Tokenizer(extension.files)
    assert 40 < len(extension.pieces) <= 80
    assert new.vocab_size == old.vocab_size + len(extension.pieces)
    made_of = dict(enumerate(extension.pieces, old.vocab_size))
    for text in [*TEXTS[::40], *ENGLISH, "서점 & 찻집 🙂", "처음 보는 낱말"]:
        ids = new.encode(text)
        assert [one for token in ids for one in made_of.get(token, [token])] == old.encode(text)
        assert new.decode(ids) == text
    before, after = extension.fit["ko"]
    assert after > 1.5 * before
    (tmp_path / "new").mkdir()
    new.save(tmp_path / "new")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "new")
    for text in TEXTS[::40]:
        assert theirs.encode(text, add_special_tokens=False) == new.encode(text)


def test_through_the_command_line_the_model_gets_rows(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    old = Tokenizer.load(directory_of("bytes", base))
    rows = old.vocab_size + 16  # padded, as published models are
    config = ModelConfig(
        vocab_size=rows, hidden_size=32, num_layers=1, num_heads=2, pattern=("gqa",), tie_embeddings=False, family="llama",
    )  # fmt: skip
    save_model(Decoder(config), base)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        main(["model", "extend", str(base), "--split", str(documents), "--out", str(out), "--tokens", "60",
              "--min-frequency", "10", "--json"])  # fmt: skip
    assert left.value.code == 0
    count = json.loads(capsys.readouterr().out)["new_tokens"]
    before, after, new = load_model(base), load_model(out), Tokenizer.load(out)
    assert after.config.vocab_size == max(rows, old.vocab_size + count) == max(rows, new.vocab_size)
    table, grown = before.embed_tokens.weight, after.embed_tokens.weight
    assert torch.equal(grown[: old.vocab_size], table[: old.vocab_size])
    whole = next(n for n in range(old.vocab_size, new.vocab_size) if "\ufffd" not in new.decode([n]))
    pieces = old.encode(new.decode([whole]))
    torch.testing.assert_close(grown[whole], table[pieces].mean(0))
    torch.testing.assert_close(after.head_weight[whole], before.head_weight[pieces].mean(0))
