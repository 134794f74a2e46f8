"""What a grammar lets come next: its masks against an independent judge, its ends, and that it is compiled once."""

from __future__ import annotations

import json
import random
import re
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import regex
import tokenizers
from tokenizers import decoders, models, normalizers

from hanok.engine.api import Structure
from hanok.engine.grammar import Grammars, Matcher
from hanok.errors import StructureError
from hanok.tokens.tokenizer import Tokenizer

REGEXES = ["[가-힣]{2,5}", "[0-9]{3}-[0-9]{4}", "(?i)hanok", r"[^a-z]{1,4}\.", "가(나|다라)*마"]
TREE = {
    "$defs": {"tree": {
        "type": "object", "properties": {"leaf": {"type": "boolean"}, "left": {"$ref": "#/$defs/tree"}},
        "required": ["leaf"], "additionalProperties": False,
    }},
    "$ref": "#/$defs/tree",
}  # fmt: skip


@pytest.fixture(scope="module")
def grammars(tiny: ModuleType) -> Grammars:
    tokenizer = tiny.merged_tokenizer()
    return Grammars(tokenizer, vocabulary=tokenizer.vocab_size)


def test_masks_equal_a_partial_match(grammars: Grammars, tiny: ModuleType) -> None:
    """`regex` says of every piece whether a text that begins so can be continued to a match."""
    tokenizer: Tokenizer = tiny.merged_tokenizer()
    ends = set(tokenizer.stop_ids)
    for seed, pattern in enumerate(
        [*REGEXES, r'\{"(name|한옥)": ?"[^"\\]{0,9}"\}', "(the|tea|한)( (house|마을의))*"]
    ):
        rng = random.Random(seed)
        matcher = grammars.matcher(Structure(kind="regex", value=pattern), ends)
        text = ""
        for _ in range(20):
            allowed = ids_of(matcher, tokenizer.vocab_size)
            whole = {n: decoded for n in range(tokenizer.vocab_size) if (decoded := decode(tokenizer, n))}
            expected = {
                n for n, piece in whole.items() if regex.fullmatch(pattern, text + piece, partial=True)
            }
            assert {n for n in allowed if n in whole} == expected
            assert ends & allowed == (ends if re.fullmatch(pattern, text) else set())
            nexts = sorted(expected & allowed)
            if not nexts:
                break
            token = rng.choice(nexts)
            text += whole[token]
            complete = matcher.advance(token)
            assert not complete or re.fullmatch(pattern, text)
            if complete:
                break


def decode(tokenizer: Tokenizer, token: int) -> str:
    """Of a piece of whole characters that is no control token; else nothing."""
    if token in tokenizer.special.values():
        return ""
    try:
        return tokenizer.token_bytes(token).decode()
    except UnicodeDecodeError:
        return ""


def ids_of(matcher: Matcher, size: int, *, may_end: bool = True) -> set[int]:
    bits = np.unpackbits(matcher.allowed(may_end=may_end).view(np.uint8), bitorder="little")
    assert not bits[size:].any()
    return set(np.flatnonzero(bits).tolist())


def test_a_first_space_that_decoding_drops_fits(tmp_path: Path) -> None:
    """Like Llama 2 and Mistral: the piece for a space and a bracket, at the beginning of a text, is a bracket."""
    names = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "{",
        "}",
        "▁{",
        "▁}",
        '"',
        "a",
        '▁"',
        "▁▁{",
    ]
    made = tokenizers.Tokenizer(
        models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=[], byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    tokenizer = Tokenizer.load(tmp_path)
    found = Grammars(tokenizer, vocabulary=tokenizer.vocab_size)
    with pytest.raises(StructureError, match="has no <tool_call>"):
        found.check(Structure(kind="tool_calls", value='{"functions": [{"name": "f"}], "several": false}'))
    structure = Structure(kind="regex", value=r' ?\{( "a")*\}')
    byte, piece = (lambda character: 3 + ord(character)), names.index
    matcher = found.matcher(structure, tokenizer.stop_ids)
    assert ids_of(matcher, len(names)) == {piece("{"), byte("{"), piece("▁{"), piece("▁▁{")}
    matcher.advance(piece("▁▁{"))
    assert ids_of(matcher, len(names)) == {piece("▁"), byte(" "), piece('▁"'), piece("}"), byte("}")}
    for token in ("▁", '"', "a", '"'):
        assert not matcher.advance(piece(token))
    assert matcher.advance(piece("}"))
    assert tokenizer.decode([piece(name) for name in ("▁▁{", "▁", '"', "a", '"', "}")]) == ' { "a"}'


def test_stop_ids_come_where_the_grammar_may_end(grammars: Grammars, tiny: ModuleType) -> None:
    tokenizer: Tokenizer = tiny.merged_tokenizer()
    own = tokenizer.encode("b")[0]
    matcher = grammars.matcher(Structure(kind="regex", value="a+b*"), {*tokenizer.stop_ids, own})
    a = tokenizer.encode("a")[0]
    assert ids_of(matcher, tokenizer.vocab_size) == {a}
    matcher.advance(a)
    assert ids_of(matcher, tokenizer.vocab_size) == {a, own, *tokenizer.stop_ids}
    assert len(tokenizer.stop_ids) == 2
    assert ids_of(matcher, tokenizer.vocab_size, may_end=False) == {a}


def test_grammars_are_compiled_once(grammars: Grammars) -> None:
    structure, states = Structure(kind="json_schema", value=json.dumps(TREE)), []
    threads = [threading.Thread(target=lambda: states.append(grammars._compile(structure))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grammars._compile(structure) is grammars._compile(structure)
    assert len(states) == 8
    for number in range(140):
        grammars.check(Structure(kind="regex", value=f"a{{{number + 1}}}"))
    assert len(grammars._compiled) == 128
