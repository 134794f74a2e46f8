"""The tokeniser at run time: BPE over bytes, or over characters with bytes to fall back on (`tokenizer.json`), and its
chat template, ours or as a public model ships them.

Content never becomes control ids: text is encoded by a copy of the tokeniser that knows no control tokens, and only
the chat template's own are looked up. Rendered ids equal `transformers`' `apply_chat_template` for harmless content.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from hanok.artefacts import write_atomic
from hanok.errors import ArtefactError, ConfigError, InputError
from hanok.tokens import spm
from hanok.tokens.calls import assistant_parts
from hanok.tokens.control import IM_END
from hanok.tokens.model import content_encoders, read_vocabulary
from hanok.tokens.pieces import StreamDecoder
from hanok.tokens.template import ChatTemplate, Message, Run, Setting

MOST_BYTES = 128 << 20  # of one file; the largest public ones have 35 MB, and reading takes ten times as much
FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
_FEW = 4096  # characters that one thread encodes in less time than others take to wake
_SENTENCEPIECE = "tokenizer.model"  # read where there is no tokenizer.json
_OPTIONAL = ("special_tokens_map.json", "chat_template.jinja", "config.json")
_ROLE_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


class ChatIds(NamedTuple):
    """Ids of a conversation, and which of them training learns (the assistant's words and the end of its turns)."""

    ids: list[int]
    loss_mask: list[bool]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What `encode_chats` takes."""

    messages: Sequence[Message]
    tools: Sequence[Any] | None = None


class Tokenizer:
    """Encodes text and chats, decodes ids. Make one with `Tokenizer.load`."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files`: name to content of `tokenizer.json`, `tokenizer_config.json` and, if there, the others."""
        self._packed = {
            name: zlib.compress(content.encode(), level=1)
            for name, content in files.items()
            if name != "config.json"
        }
        model = json.loads(files["tokenizer.json"])
        config = json.loads(files.get("tokenizer_config.json", "{}"))
        self._vocabulary = read_vocabulary(model)
        self.special = {name: token.id for name, token in self._vocabulary.control.items()}
        self._control_ids = frozenset(self.special.values())
        self.control_names: Mapping[int, str] = {number: name for name, number in self.special.items()}
        self.vocab_size = len(self._vocabulary.pieces)
        rows = json.loads(files.get("config.json", "{}")).get("vocab_size") or 0
        self._pieces = self._vocabulary.pieces.replaced(
            {}, size=rows
        )  # a model may know more ids than there are tokens
        self._first, self._later = content_encoders(model, self.special)
        names = _role_names(config, json.loads(files.get("special_tokens_map.json", "{}")))
        known = _stops(files)
        self.eos_id = self._named("eos_token", names, known)
        self.bos_id = self._named("bos_token", names, (self.eos_id,))
        self.pad_id = self._named("pad_token", names, (self.eos_id,))
        ends = [self.special[IM_END]] if IM_END in self.special else []
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([*ends, *known, self.eos_id]))
        source = files.get("chat_template.jinja") or _template_source(config.get("chat_template"))
        self._template = ChatTemplate(source, list(self.special), names) if source else None
        self.byte_lengths = np.array(self._pieces.lengths(), dtype=np.int32)
        self.byte_lengths[list(self._control_ids)] = 0

    @property
    def has_template(self) -> bool:
        """Whether it can write chats."""
        return self._template is not None

    @property
    def template_settings(self) -> frozenset[str]:
        """Names of what its chat template reads beside the conversation, as `enable_thinking`."""
        return frozenset() if self._template is None else self._template.settings

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read a tokeniser or model directory.

        Raises:
            ArtefactError: files missing, damaged, or of a tokeniser that is not BPE.
        """
        directory = Path(directory)
        files: dict[str, str] = {}
        for name in (*FILES, *_OPTIONAL):
            path = directory / name
            if path.is_file():
                _check_size(path)
                try:
                    files[name] = path.read_text(encoding="utf-8")
                except UnicodeDecodeError as error:
                    raise ArtefactError(f"{path} is not UTF-8 ({error})", remedy=_REMAKE) from error
        if "tokenizer.json" not in files and (directory / _SENTENCEPIECE).is_file():
            _check_size(directory / _SENTENCEPIECE)
            made = spm.tokenizer_files(
                (directory / _SENTENCEPIECE).read_bytes(), name=str(directory / _SENTENCEPIECE)
            )
            given = json.loads(files.get("tokenizer_config.json", "{}"))
            config = json.dumps(json.loads(made["tokenizer_config.json"]) | given, ensure_ascii=False)
            files |= {"tokenizer.json": made["tokenizer.json"], "tokenizer_config.json": config}
        if "tokenizer.json" not in files:
            raise ArtefactError(f"no tokenizer.json in {directory}", remedy=_without_file(directory))
        try:
            return cls(files)
        except (ArtefactError, ConfigError):
            raise
        except Exception as error:  # tokenizers raises bare Exception for what it cannot parse
            raise ArtefactError(f"{directory}: tokeniser is damaged ({error})", remedy=_REMAKE) from error

    def save(self, directory: Path) -> None:
        """Write the same files, byte for byte, below `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_atomic(directory / name, content)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides ids: the model and the chat template, however the JSON is laid out."""
        model = json.loads(self._file("tokenizer.json"))
        template = self._template.source if self._template else ""
        content = json.dumps([model, template], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of content. Control tokens written out in it stay plain text.

        Raises:
            InputError: half a surrogate pair, which no UTF-8 text can hold.
        """
        return self.encode_batch([text])[0]

    @property
    def files(self) -> dict[str, str]:
        """Name to content of what `save` writes."""
        return {name: self._file(name) for name in self._packed}

    def _file(self, name: str) -> str:
        return zlib.decompress(self._packed[name]).decode()

    def encode_words(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """`encode` of each with the word (of the pre-tokeniser) that each token belongs to."""
        return self._first.encode_batch(list(texts), add_special_tokens=False)

    def encode_batch(self, texts: Sequence[str], *, first: bool = True) -> list[list[int]]:
        """`encode` of each, long ones on all cores. `first`: they begin a text (some tokenisers put a space before it)."""
        encoder = self._first if first else self._later
        alone = len(texts) > 1 and sum(map(len, texts)) <= _FEW  # to wake other threads would take longer
        batches = [[text] for text in texts] if alone else [list(texts)]
        try:
            encodings = [
                encoding
                for batch in batches
                for encoding in encoder.encode_batch_fast(batch, add_special_tokens=False)
            ]
        except TypeError as error:  # what tokenizers says of anything that is no UTF-8 text
            raise InputError(
                "text that is not Unicode: half a surrogate pair",
                remedy="remove the characters U+D800 to U+DFFF",
            ) from error
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of ids; invalid UTF-8 becomes U+FFFD."""
        skip = self._control_ids if skip_special else frozenset()
        text = b"".join(self._pieces[n] for n in ids if n not in skip).decode("utf-8", "replace")
        return text[1:] if self._vocabulary.strips_space and text.startswith(" ") else text

    def stream_decoder(self, *, skip_special: bool = True, first: bool = True) -> StreamDecoder:
        """One decoder a stream; pushed ids give the same text as `decode`. Args: first: as of `encode_batch`."""
        skip = self._control_ids if skip_special else frozenset()
        return StreamDecoder(self._pieces, skip, strips_space=first and self._vocabulary.strips_space)

    @property
    def drops_first_space(self) -> bool:
        """Whether a decoded text loses one space at its start."""
        return self._vocabulary.strips_space

    def token_bytes(self, token: int) -> bytes:
        """The raw bytes that an id stands for (a control token: its name)."""
        return self._pieces[token]

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        settings: Mapping[str, Setting] | None = None,
    ) -> ChatIds:
        """Ids of a conversation through the chat template. `settings`: some of `template_settings`.

        Raises:
            InputError: messages that the template cannot take. ConfigError: the tokeniser has no chat template.
        """
        runs = self._chat_template.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, settings=settings
        )
        return self._encode_runs([runs])[0]

    def encode_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        settings: Mapping[str, Setting] | None = None,
    ) -> list[int]:
        """Ids of `encode_chat` up to where the assistant speaks."""
        template = self._chat_template
        runs = template.render(messages, tools=tools, add_generation_prompt=True, settings=settings)
        return self._prompt_ids(self._vocabulary.stripped(runs))

    def encode_chats(self, conversations: Sequence[Conversation]) -> list[ChatIds]:
        """`encode_chat` of each, encoding on all cores."""
        template = self._chat_template
        return self._encode_runs([template.render(chat.messages, tools=chat.tools) for chat in conversations])

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The conversation as the template writes it."""
        runs = self._chat_template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        return "".join(run.text for run in runs)

    def parse_assistant(self, said: str | Iterable[int]) -> tuple[str, list[dict[str, Any]]]:
        """Content and OpenAI tool calls of an assistant's turn.

        From ids, only real control tokens open a call; from text, their names do. A malformed call stays content.
        """
        if isinstance(said, str):
            pattern = "(" + "|".join(map(re.escape, self.special)) + ")"
            parts = re.split(pattern, said)
            return assistant_parts((part, place % 2 == 1) for place, part in enumerate(parts))
        return assistant_parts(self._segments(said))

    def _segments(self, ids: Iterable[int]) -> Iterable[tuple[str, bool]]:
        held: list[int] = []
        for token in ids:
            if token in self._control_ids:
                yield self.decode(held), False
                yield self.control_names[token], True
                held = []
            else:
                held.append(token)
        yield self.decode(held), False

    def _encode_runs(self, chats: Sequence[Sequence[Run]]) -> list[ChatIds]:
        chats = [self._vocabulary.stripped(runs) for runs in chats]
        encoded = {
            first: self._encode_texts([runs[:1] if first else runs[1:] for runs in chats], first=first)
            for first in (True, False)
        }
        out = []
        for runs in chats:
            ids: list[int] = []
            mask: list[bool] = []
            for place, run in enumerate(runs):
                part = [self.special[run.text]] if run.control else encoded[place == 0][run.text]
                ids += part
                mask += [bool(run.trained)] * len(part) if run.control else self._trained(part, run)
            out.append(ChatIds(ids, mask))
        return out

    def _prompt_ids(self, runs: Sequence[Run]) -> list[int]:
        known = self._between_turns
        texts = list(dict.fromkeys(run.text for run in runs[1:] if not run.control and run.text not in known))
        encoded = dict(zip(texts, self.encode_batch(texts, first=False), strict=True))
        ids: list[int] = []
        for place, run in enumerate(runs):
            if run.control:
                ids.append(self.special[run.text])
            elif place == 0:
                ids += self.encode(run.text)
            else:
                ids += known[run.text] if run.text in known else encoded[run.text]
        return ids

    @cached_property
    def _between_turns(self) -> Mapping[str, list[int]]:
        """Ids of what the chat template writes around a question, whatever is asked."""
        try:
            runs = self._chat_template.render([{"role": "user", "content": "?"}], add_generation_prompt=True)
        except InputError:  # this one wants other messages
            return {}
        texts = [
            run.text for run in self._vocabulary.stripped(runs)[1:] if not run.control and "?" not in run.text
        ]
        return dict(zip(texts, self.encode_batch(texts, first=False), strict=True))

    def _encode_texts(self, chats: Sequence[Sequence[Run]], *, first: bool) -> dict[str, list[int]]:
        texts = list(dict.fromkeys(run.text for runs in chats for run in runs if not run.control))
        return dict(zip(texts, self.encode_batch(texts, first=first), strict=True))

    def _trained(self, ids: Sequence[int], run: Run) -> list[bool]:
        """Which tokens of a run overlap with its trained spans."""
        size = len(run.text.encode())
        if not run.trained or run.trained == ((0, size),):
            return [bool(run.trained)] * len(ids)
        ends = np.cumsum(self.byte_lengths[ids])
        starts = ends - self.byte_lengths[ids]
        mask = np.zeros(len(ids), dtype=bool)
        for start, end in run.trained:
            mask |= (ends > start) & (starts < end)
        return mask.tolist()

    @property
    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            raise ConfigError(
                "this tokeniser has no chat template", remedy="add chat_template to tokenizer_config.json"
            )
        return self._template

    def _named(self, key: str, names: Mapping[str, str], otherwise: Sequence[int]) -> int:
        """The id of a named token, or else the first of `otherwise`."""
        if names.get(key) in self.special:
            return self.special[names[key]]
        if key in names or not otherwise:
            raise ArtefactError(
                f"tokenizer_config.json: {key} = {names.get(key)!r} is no added token of tokenizer.json",
                remedy="name one that is",
            )
        return otherwise[0]


_REMAKE = "copy it again, or train the tokeniser anew"


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ArtefactError(f"{path} has {size:,} bytes, more than {MOST_BYTES:,}", remedy=_REMAKE)


def _role_names(config: Mapping[str, Any], mapped: Mapping[str, Any]) -> dict[str, str]:
    """What bos_token, eos_token and so on are; templates read these names."""
    found = {}
    for key in _ROLE_TOKENS:
        value = config.get(key) or mapped.get(key)
        if value:
            found[key] = value["content"] if isinstance(value, Mapping) else str(value)
    return found


def _stops(files: Mapping[str, str]) -> list[int]:
    """eos_token_id of `generation_config.json`, else of `config.json`."""
    for name in ("generation_config.json", "config.json"):
        stops = json.loads(files.get(name, "{}")).get("eos_token_id")
        if stops is not None:
            return stops if isinstance(stops, list) else [stops]
    return []


def _template_source(value: Any) -> str | None:
    """One template, or the one that several call "default"."""
    if isinstance(value, list):
        return next((one["template"] for one in value if one.get("name") == "default"), None)
    return value


def _without_file(directory: Path) -> str:
    pieces = sorted(file.name for file in directory.glob("*.model"))
    if pieces:
        return f"{pieces[0]} may be a SentencePiece model: it is read under the name {_SENTENCEPIECE}"
    return "give the directory of a tokeniser or model"
