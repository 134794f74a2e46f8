"""The engine in this process: one thread runs the model for everybody who asks."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hanok.engine.api import Completion, Delta, Request
from hanok.engine.blocks import BLOCK
from hanok.engine.coverage import CacheKind, block_bytes, why_not_native
from hanok.engine.generation import Generation, new_generation
from hanok.engine.grammar import Grammars
from hanok.engine.images import images_of
from hanok.engine.learned import LearnedLaws
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.scheduler import Scheduler
from hanok.errors import ConfigError, ContextLengthError, InputError
from hanok.kernels.memory import give_back
from hanok.kernels.packed import Kind
from hanok.models.checkpoint import load_config, load_model, load_stored_bits
from hanok.models.checkpoint.decoding import load_heads
from hanok.models.coded import stored_parts
from hanok.models.config import ModelConfig
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer

IDLE_SECONDS = 5.0  # the thread ends when nobody has asked for this long, and starts again by itself
CACHE_TOKENS = 32_768
CACHE_BYTES = 2 << 30
_ROWS = 128  # logits computed at a time when scoring

Weights = Literal["auto", "float32", "bf16", "int8", "int4"]


class LocalEngine:
    """Implements `hanok.engine.api.Engine` over a model directory. Any thread may call any method.

    With `stop` strings, ids end with the token that completes one; `hanok.engine.text` cuts the text.
    Reported logprobs are the model's own, before penalties, bias and temperature. Decoding heads beside the model's weights
    choose temperature and top-p of each token for requests that leave both alone (`SamplingParams.decoding`).

    Args:
        threads: for torch and the kernels, in the whole process; None leaves it alone.
        weights: "bf16", "int8" or "int4" run on the native kernels, "float32" on PyTorch. "auto": where the kernels know
            the model's layers, the width that its file has codes of, or bf16; else float32.
        max_running: sequences that decode together at most.
        cache_bytes: for keys and values of the native kernels; None: 2 GiB, or less where `CACHE_TOKENS` need less.
        cache_type: of those keys and values; "int8" takes about half the memory of "bf16".

    Raises:
        ConfigError: weights of a kind that this model does not run with here.
    """

    def __init__(
        self, model_dir: Path, *, threads: int | None = None, weights: Weights = "auto", max_running: int = 128,
        cache_bytes: int | None = None, cache_type: CacheKind = "bf16",
    ) -> None:  # fmt: skip
        if max_running < 1:
            raise ConfigError(f"max_running = {max_running}", remedy="it must be at least 1")
        if threads is not None:
            torch.set_num_threads(threads)
        self.tokenizer = Tokenizer.load(model_dir)
        config = load_config(model_dir)
        kind = self.weights = _choose_weights(weights, config, load_stored_bits(model_dir))
        self._vocabulary = min(self.tokenizer.vocab_size, config.vocab_size)
        self._grammars = Grammars(self.tokenizer, vocabulary=self._vocabulary)
        self._native: NativeDecoder | None = None
        self.max_context = config.max_context
        heads = load_heads(model_dir, width=config.hidden_size)
        self.has_heads = heads is not None
        laws = None if heads is None else LearnedLaws(heads, fast=kind != "float32")
        if kind == "float32":
            if cache_type != "bf16":
                raise ConfigError(
                    f"cache_type = {cache_type}: the cache of PyTorch's layers is float32",
                    remedy="take weights that run on the native kernels, or leave cache_type out",
                )
            self.decoder = load_model(model_dir).requires_grad_(False)
            self._scheduler = Scheduler(
                self.decoder, max_running=max_running, vocabulary=self._vocabulary, laws=laws
            )
        else:
            self.decoder = load_model(model_dir, dtype="stored").requires_grad_(False)
            blocks = _cache_blocks(config, cache_bytes, max_running, cache_type)
            self._native = NativeDecoder(
                self.decoder,
                kind=kind,
                blocks=blocks,
                threads=torch.get_num_threads(),
                slots=max_running,
                images=images_of(model_dir, kind),
                cache=cache_type,
            )
            give_back(stored_parts(self.decoder))
            self.max_context = min(self.max_context, blocks * BLOCK)
            self._scheduler = PagedScheduler(
                self._native, max_running=max_running, vocabulary=self._vocabulary, laws=laws
            )
        self._arrivals = itertools.count()
        self._inbox: list[Generation] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._model = threading.Lock()  # held while the weights are read
        self._closed = False
        atexit.register(
            _close, weakref.ref(self)
        )  # a thread inside torch must not meet the end of the interpreter

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, batched; results in the order given.

        Raises:
            InputError, ContextLengthError: a request that cannot run; none of them is started.
        """
        for request in requests:
            self.check(request)
        done = threading.Semaphore(0)
        errors: list[Exception] = []

        def listen(delta: Delta) -> None:
            if delta.finish_reason is not None:
                done.release()

        def fail(error: Exception) -> None:
            errors.append(error)
            done.release()

        generations = [self._new(request, listen, fail) for request in requests]
        self._submit(generations)
        try:
            for _ in generations:
                done.acquire()
        except BaseException:
            self._cancel(generations)
            raise
        if errors:
            raise errors[0]
        return [generation.completion for generation in generations]

    def stream(self, request: Request) -> AsyncIterator[Delta]:
        """Deltas as they come. Closing the iterator, or cancelling the task that reads it, cancels the request.

        Raises:
            InputError, ContextLengthError: at once, before the first delta.
        """
        self.check(request)
        return self._deltas(request)

    def score(self, ids: Sequence[int]) -> list[float]:
        """log p(ids[t] | ids[:t]) for t >= 1, in nats."""
        self._check_ids(ids, what="the sequence")
        if len(ids) < 2:
            return []
        with self._model, torch.inference_mode():
            targets_N = torch.tensor(ids[1:])
            scores: list[float] = []
            parts = (
                self._logits(ids[:-1]) if self._native is None else self._native.read(ids[:-1], rows=_ROWS)
            )
            for logits_nV, targets_n in zip(parts, targets_N.split(_ROWS), strict=True):
                scores += logits_nV.log_softmax(-1).gather(1, targets_n[:, None]).squeeze(1).tolist()
        return scores

    def _logits(self, ids: Sequence[int]) -> Iterator[Tensor]:
        hidden_ND, _ = self.decoder(torch.tensor(ids), torch.tensor([0, len(ids)], dtype=torch.int32))
        for hidden_nD in hidden_ND.split(_ROWS):
            yield self.decoder.logits(hidden_nD)

    def embed(self, ids: Sequence[int], layer: int) -> Tensor:
        """Hidden vectors [len(ids), D], float32, after block `layer` (from 0), or after the final norm (-1); of the weights
        as they are stored, whatever `weights` says."""
        self._check_ids(ids, what="the sequence")
        layers = self.decoder.config.num_layers
        if not -1 <= layer < layers:
            raise InputError(
                f"layer = {layer} of a model with {layers} layers", remedy=f"choose -1 to {layers - 1}"
            )
        kept: list[Tensor] = []
        with self._model, torch.inference_mode():
            module = self.decoder.norm if layer == -1 else self.decoder.layers[layer]

            def keep(_module: object, _inputs: object, output: Tensor) -> None:
                kept.append(output)

            hook = module.register_forward_hook(keep)
            try:
                self.decoder(torch.tensor(ids), torch.tensor([0, len(ids)], dtype=torch.int32))
            finally:
                hook.remove()
        return kept[0].float()

    def update_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace named tensors in place, between two steps; running requests go on with the new weights."""
        mine = dict(self.decoder.named_parameters())
        for name, tensor in weights.items():
            if name not in mine or mine[name].shape != tensor.shape:
                known = tuple(mine[name].shape) if name in mine else "no such tensor"
                raise InputError(
                    f"{name} of shape {tuple(tensor.shape)}: the model has {known}", remedy="give its tensors"
                )
            if not torch.isfinite(tensor).all():
                raise InputError(
                    f"{name} holds NaN or infinity", remedy="the weights stay as they are: give sound ones"
                )
        with self._model, torch.no_grad():
            for name, tensor in weights.items():
                mine[name].data = (
                    tensor.detach().to(mine[name].dtype).clone()
                )  # the old one may be a file, mapped
            if self._native is not None:
                self._native.refill()
                self._native.pool.forget_all()

    def close(self) -> None:
        """Cancel what is under way and end the thread. The engine takes no more requests."""
        with self._wake:
            self._closed = True
            thread = self._thread
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def check(self, request: Request) -> None:
        """Raises InputError (StructureError where its structure is at fault) or ContextLengthError if the request cannot run."""
        self._check_ids(request.prompt_ids, what="the prompt")
        if request.adapter is not None:
            raise InputError(
                f'adapter = "{request.adapter}"', remedy="this engine serves one model without adapters"
            )
        unknown = [token for token in request.params.logit_bias if not 0 <= token < self._vocabulary]
        if unknown:
            raise InputError(
                f"logit_bias names token {unknown[0]}",
                remedy=f"ids go up to {self._vocabulary - 1}",
            )
        if request.params.structure is not None:
            self._grammars.check(request.params.structure)

    def _check_ids(self, ids: Sequence[int], *, what: str) -> None:
        if not ids:
            raise InputError(f"{what} is empty", remedy="give at least one token")
        if len(ids) > self.max_context:
            raise ContextLengthError(prompt=len(ids), limit=self.max_context)
        vocabulary = self.decoder.config.vocab_size
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise InputError(
                f"{what} holds a token outside 0 to {vocabulary - 1}",
                remedy="encode it with this model's tokeniser",
            )

    async def _deltas(self, request: Request) -> AsyncIterator[Delta]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Delta | Exception] = asyncio.Queue()

        def put(item: Delta | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(queue.put_nowait, item)

        generation = self._new(request, put, put)
        self._submit([generation])
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            self._cancel([generation])

    def _new(
        self, request: Request, listen: Callable[[Delta], None], fail: Callable[[Exception], None]
    ) -> Generation:
        return new_generation(
            request, arrival=next(self._arrivals), tokenizer=self.tokenizer, context=self.max_context,
            listener=listen, failed=fail, grammars=self._grammars, has_heads=self.has_heads,
        )  # fmt: skip

    def _submit(self, generations: Sequence[Generation]) -> None:
        with self._wake:
            if self._closed:
                raise InputError("the engine is closed", remedy="make a new one")
            self._inbox += generations
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hanok-engine", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _cancel(self, generations: Sequence[Generation]) -> None:
        for generation in generations:
            generation.cancelled = True

    def _run(self) -> None:
        while self._take_in():
            self._step()

    def _take_in(self) -> bool:
        """Hand what has arrived to the scheduler, waiting for it if need be; False when the thread is to end."""
        with self._wake:
            if not (self._inbox or self._scheduler.has_work() or self._closed):
                self._wake.wait(IDLE_SECONDS)
            if self._closed:
                for generation in [*self._scheduler.abandon(), *self._inbox]:
                    generation.finish("cancelled")
                return False
            if not (self._inbox or self._scheduler.has_work()):
                self._thread = None
                return False
            arrived, self._inbox = self._inbox, []
        for generation in arrived:
            self._scheduler.add(generation)
        return True

    def _step(self) -> None:
        try:
            with self._model, torch.inference_mode():
                self._scheduler.step()
        except Exception as error:
            log.exception("the engine failed; the requests under way are lost")
            for generation in self._scheduler.abandon():
                generation.failed(error)


def _choose_weights(
    weights: Weights, config: ModelConfig, stored_bits: int | None
) -> Literal["float32"] | Kind:
    if weights == "float32":
        return "float32"
    why = why_not_native(config)
    if why is None:
        if weights == "auto":
            return "bf16" if stored_bits is None else "int4" if stored_bits == 4 else "int8"
        return weights
    if weights == "auto":
        log.info("running in PyTorch, float32: %s", why)
        return "float32"
    raise ConfigError(
        f"weights = {weights}: the native kernels do not run this model, {why}", remedy="use float32"
    )


def _cache_blocks(
    config: ModelConfig, cache_bytes: int | None, max_running: int, cache_type: CacheKind
) -> int:
    of_block = max(1, block_bytes(config, cache_type))
    if cache_bytes is None:
        tokens = min(max(config.max_context, CACHE_TOKENS), config.max_context * max_running)
        return max(1, min(-(-tokens // BLOCK), CACHE_BYTES // of_block))
    if cache_bytes < of_block:
        raise ConfigError(
            f"cache_bytes = {cache_bytes:,}", remedy=f"a block of {BLOCK} tokens needs {of_block:,}"
        )
    return cache_bytes // of_block


def _close(engine: weakref.ref[LocalEngine]) -> None:
    alive = engine()
    if alive is not None:
        alive.close()
