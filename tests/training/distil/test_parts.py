"""Parts of distillation on their own: stored laws, students from a teacher's shape, prompts out of documents."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
import torch

from hanok.artefacts import append_jsonl, open_artefact
from hanok.artefacts.shards import Shards, open_shards
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.decoder import Decoder
from hanok.training.distil.logits import Law, StoredLogits, kept_law, write_logits
from hanok.training.distil.student import kept_layers, num_parameters, slices, smaller
from hanok.training.distil.teacher import Teacher
from hanok.training.objectives.distillation import forward_kl, top_k_kl
from hanok.training.packing import PackedSequence, SequenceTable, pack, read_sequence
from hanok.training.rollouts.asking import cut
from hanok.training.rollouts.kept import KeptRows
from hanok.training.rollouts.teacher_samples import _whole_lines

SPLITS = ["chat-train", "text-train"]
LAW = Law(top_k=7, temperature=1.5, max_seq_len=96)


class TestStoredLogits:
    def write(self, path: Path, teacher: Path, shards: Path, **changes: Any) -> StoredLogits:
        opened, corpus, parent = open_shards(shards), open_artefact(shards), open_artefact(teacher)
        write_logits(
            path, Teacher.load(teacher, dtype=torch.float32), parent=parent, corpus=corpus, shards=opened, splits=SPLITS,
            law=LAW, max_tokens=128, **changes,
        )  # fmt: skip
        return StoredLogits(path, teacher=parent, corpus=corpus, shards=opened, law=LAW, splits=SPLITS)

    def test_what_is_read_is_what_the_teacher_says(self, teacher: Path, shards: Path, tmp_path: Path) -> None:
        """Each sequence of both splits: documents cut in pieces, chats of which the answer alone is learnt."""
        stored, decoder = self.write(tmp_path / "logits", teacher, shards), load_model(teacher)
        seen = 0
        for name in SPLITS:
            for sequence in all_sequences(open_shards(shards), name):
                ids, logp, rest = (torch.from_numpy(part) for part in stored.of(sequence))
                batch = pack([sequence])
                with torch.no_grad():
                    hidden, _ = decoder(batch.ids_N, batch.cu_seqlens)
                    law = (decoder.logits(hidden[batch.loss_mask_N]) / 1.5).log_softmax(1)
                torch.testing.assert_close(logp, law.gather(1, ids), atol=1e-4, rtol=0)
                torch.testing.assert_close(logp, law.topk(7, 1).values, atol=1e-4, rtol=0)
                total = logp.exp().sum(1) + rest.exp()
                torch.testing.assert_close(total, torch.ones(len(ids)), atol=1e-6, rtol=0)
                seen += len(ids)
        assert open_artefact(tmp_path / "logits").metrics["tokens"] == seen

    def test_killed_at_any_block_it_goes_on(
        self, teacher: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same files, and no block is scored twice."""
        monkeypatch.setattr("hanok.training.distil.logits._BLOCK", 32)
        self.write(tmp_path / "straight", teacher, shards)
        straight = open_artefact(tmp_path / "straight")
        blocks: list[int] = []

        def stop(done: int) -> None:
            blocks.append(done)
            part = tmp_path / ".killed.partial" / "text-train.ids.bin"
            if part.exists():  # a block that was being written when the process died
                with part.open("ab") as file:
                    file.write(b"half a block")
            raise KeyboardInterrupt

        for _ in range(20):
            try:
                self.write(tmp_path / "killed", teacher, shards, told=stop)
                break
            except KeyboardInterrupt:
                continue
        killed = open_artefact(tmp_path / "killed")
        assert killed.files == straight.files
        assert killed.hash == straight.hash
        assert len(blocks) == len(set(blocks)) + 1  # 32 and 60 of the chats, 32, 64, ... of the texts
        assert not (tmp_path / ".killed.partial").exists()

    def test_the_rest_is_exact_where_little_is_left(self) -> None:
        """One minus the kept mass has no digit left there."""
        logits = torch.tensor([[30.0, 9.0, 2.0, 1.0]], dtype=torch.float64)
        student = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float32).log()
        ids, logp, rest = kept_law(logits.float(), Law(top_k=2, temperature=1.0, max_seq_len=1))
        expected = (logits[0, 2:].exp().sum() / logits[0].exp().sum()).log()
        assert rest.item() == pytest.approx(expected.item(), rel=1e-6)
        exact = top_k_kl(student.double(), ids, *(x.double() for x in (logp, rest)))
        q = student.double().exp()
        p = logits.softmax(1)
        by_hand = (
            sum(p[0, i] * (p[0, i] / q[0, i]).log() for i in (0, 1))
            + p[0, 2:].sum() * (p[0, 2:].sum() / q[0, 2:].sum()).log()
        )
        assert exact.item() == pytest.approx(float(by_hand), rel=1e-6)

    def test_all_kept_is_the_whole_divergence(self) -> None:
        """Value and gradient, and nothing left over."""
        generator = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(2, 5, 9, generator=generator, dtype=torch.float64)
        student.requires_grad_()
        ids, logp, rest = kept_law(teacher, Law(top_k=9, temperature=0.7, max_seq_len=1))
        assert (rest == -torch.inf).all()
        ours = top_k_kl(student, ids, logp, rest, temperature=0.7)
        whole = forward_kl(student, teacher, temperature=0.7)
        torch.testing.assert_close(ours, whole, atol=1e-6, rtol=0)
        mine, other = (torch.autograd.grad(loss.sum(), student)[0] for loss in (ours, whole))
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)
        few = kept_law(teacher, Law(top_k=3, temperature=0.7, max_seq_len=1))
        assert torch.autograd.gradcheck(lambda x: top_k_kl(x, *few, temperature=0.7), (student,))


class TestStudent:
    def test_a_quarter_of_the_teacher(self) -> None:
        big = ModelConfig(vocab_size=2048, hidden_size=192, num_layers=8, num_heads=4, kv_lora_rank=64)
        for config in (big, tiny.tiny_model(vocab_size=266, num_layers=4, hidden_size=64, head_dim=32)):
            for keep in (False, True):
                student = smaller(config, 0.25, keep_heads=keep)
                assert 0.15 < num_parameters(student) / num_parameters(config) <= 0.25
                assert student.dim_of_head == config.dim_of_head
                assert (student.num_heads == config.num_heads) == keep
                assert student.layers == tuple(
                    config.layers[i] for i in kept_layers(config.num_layers, student.num_layers)
                )
        assert 0.5 < (smaller(big, 0.25).hidden_size / smaller(big, 0.25).num_layers) / (192 / 8) < 2

    def test_too_small(self) -> None:
        with pytest.raises(ConfigError, match="vocabulary"):
            smaller(tiny.tiny_model(vocab_size=5000), 0.01)

    def test_layers_are_spread(self) -> None:
        assert kept_layers(8, 3) == [0, 4, 7]
        assert kept_layers(4, 1) == [3]
        assert kept_layers(5, 5) == [0, 1, 2, 3, 4]

    def test_slices_leave_out_what_is_empty(self, tmp_path: Path, shards: Path) -> None:
        """Channels and neurons without weights are those that go; what is left says what the teacher said."""
        config = tiny.tiny_model(vocab_size=266, hidden_size=48, intermediate_size=96, num_heads=2)
        teacher = Decoder(config, generator=torch.Generator().manual_seed(1))
        empty, idle = torch.arange(0, 48, 3), torch.arange(1, 96, 3)
        with torch.no_grad():
            teacher.embed_tokens.weight.mul_(50)[:, empty] = 0
            for name, parameter in teacher.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter[empty] = 0
                if name.endswith("down_proj.weight"):
                    parameter[:, idle] = 0
                if name.endswith(("gate_proj.weight", "up_proj.weight")):
                    parameter[idle] = 0
                if parameter.shape == (48,):
                    parameter[empty] = 0
        wanted = ModelConfig(**{**asdict(config), "hidden_size": 32, "intermediate_size": 64, "head_dim": 16})
        student = slices(teacher, wanted).eval()
        batch = pack([PackedSequence(np.arange(9), np.arange(9), np.ones(9, bool), "")])
        with torch.no_grad():
            there = teacher.eval()(batch.ids_N, batch.cu_seqlens)[0]
            here = student(batch.ids_N, batch.cu_seqlens)[0]
        kept = [i for i in range(48) if i not in empty.tolist()]
        torch.testing.assert_close(there[:, kept], here, atol=1e-4, rtol=1e-3)
        save_model(student, tmp_path, tokenizer_dir=shards)
        again = load_model(tmp_path).state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in student.state_dict().items())

    def test_slices_of_experts(self) -> None:
        config = tiny.tiny_model(vocab_size=266, moe=MoEConfig(experts=4, per_token=2, width=16))
        with pytest.raises(ConfigError, match="fresh"):
            slices(Decoder(config), config)


def test_prompts_of_documents(shards: Path) -> None:
    opened = open_shards(shards)
    for sequence in all_sequences(opened, "chat-train"):
        prompt = cut(sequence, text_tokens=5)
        assert prompt is not None
        count = prompt.num_tokens
        assert list(prompt.ids) == sequence.ids[:count].tolist()
        assert sequence.mask[count - 1]  # the next token is the assistant's first
        assert not sequence.mask[count - 2]
    for sequence in all_sequences(opened, "text-train"):
        prompt = cut(sequence, text_tokens=5)
        assert (prompt.num_tokens if prompt else 0) == min(5, sequence.num_tokens // 2)
    mask = np.array([False, True, True, False, True])
    named = [PackedSequence(np.arange(5), np.arange(5), mask, str(i)) for i in range(40)]
    found = [cut(one, text_tokens=5) for one in named]
    assert {prompt.num_tokens for prompt in found if prompt} == {2, 5}  # every turn
    silent = PackedSequence(np.arange(3), np.arange(3), np.zeros(3, bool), "")
    assert cut(silent, text_tokens=5) is None


def all_sequences(shards: Shards, name: str) -> list[PackedSequence]:
    split = shards.splits[name]
    table = SequenceTable(split.lengths, max_seq_len=LAW.max_seq_len, cut=not name.startswith("chat"))
    columns = table.locate(np.arange(table.num_sequences))
    return [
        read_sequence(split, name, *place, all_tokens=False)
        for place in zip(*(column.tolist() for column in columns), strict=True)
    ]


def test_files_cut_within_a_character_are_gone_on_with(tmp_path: Path) -> None:
    """A full disk ends a line at any byte."""
    kept = KeptRows(tmp_path / "samples.jsonl", by="step", each=1)
    kept.keep(0, [{"answer": "하나"}])
    kept.keep(1, [{"answer": "둘"}])
    whole = kept.file.read_bytes()
    kept.file.write_bytes(whole[: whole.index("둘".encode()) + 1])
    again = KeptRows(kept.file, by="step", each=1)
    again.keep(1, [{"answer": "셋"}])
    assert again.rows() == [{"step": 0, "answer": "하나"}, {"step": 1, "answer": "셋"}]
    partial = tmp_path / "partial.jsonl"
    assert _whole_lines(partial, {"of": "가"}) == []
    row = {"rows": [["나", [1], [2], False]], "state": {}}
    append_jsonl(partial, row)
    whole = partial.read_bytes()
    line = whole.splitlines(keepends=True)[-1]
    partial.write_bytes(whole + line[: line.index("나".encode()) + 2])
    assert _whole_lines(partial, {"of": "가"}) == [row]
    assert partial.read_bytes() == whole
