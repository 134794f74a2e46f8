"""The engine in this process: one thread runs the model for everybody who asks."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hanok.engine.adapters import Adapter, Adapters, held_of, lows_of
from hanok.engine.api import Completion, Delta, Request
from hanok.engine.backend import BackendOptions, Weights, build_backend, choose_place, choose_weights
from hanok.engine.checks import check_ids
from hanok.engine.coverage import CacheKind
from hanok.engine.device.decoder import DeviceDecoder
from hanok.engine.generation import Generation, new_generation
from hanok.engine.grammar import Grammars
from hanok.engine.metrics import EngineMetrics, measure
from hanok.engine.parallel.team import Team, refuse_in_team
from hanok.engine.plain import hidden_after, text_logits
from hanok.engine.post import Posts
from hanok.engine.speculation.build import Speculation, check_speculation
from hanok.engine.updates import tensors_to_replace
from hanok.engine.worker import Worker
from hanok.errors import ConfigError, InputError, QueueFullError
from hanok.kernels.memory import release_memory, trim
from hanok.models.checkpoint import load_config
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer

RETRY_SECONDS = 5  # what a request is told that finds the queue full
_ROWS = 128  # logits computed at a time when scoring


class LocalEngine(Worker):
    """Implements `hanok.engine.api.Engine` over a model directory. Any thread may call any method.

    With `stop` strings, ids end with the token that completes one; `hanok.engine.text` cuts the text.
    Reported logprobs are the model's own, before penalties, bias and temperature. Decoding heads beside the model's weights
    choose temperature and top-p of each token for requests that leave both alone (`SamplingParams.decoding`).

    Args:
        threads: for torch and the kernels, in the whole process; None leaves it alone.
        weights: "bf16", "int8", "int4+" or "int4" run on the native kernels, "float32" on PyTorch ("int4+": five bits for
            embedding, head and those maps where rounding costs most). "auto": where the kernels know
            the model's layers, the width that its file has codes of, or bf16; else float32.
        max_running: sequences that decode together at most.
        cache_bytes: for keys, values and snapshots of states of the native kernels (`hanok.engine.budget`); None: 2 GiB at
            most.
        cache_type: of keys and values; "int8" takes about half the memory of "bf16".
        speculation: guess the next tokens where that makes answers quicker; it never changes them. "auto": from the text,
            and from the draft model if there is one, else from the model's own heads for later tokens if it has any; "lookup":
            from the text; "own": from those heads; "off". On the native kernels only.
        draft_dir: of a smaller model with the same tokeniser.
        max_waiting: requests that wait for a place among the running ones at most; None: any number.
        adapters: name to directory of those that are loaded from the start (`load_adapter`).
        team: of processes that run the model together (`hanok.engine.parallel`), this one leads; in float32 then.
        device: "cpu"; "cuda" or "cuda:N", PyTorch's layers on a GPU (`hanok.engine.device`), which takes all weights but "int4+";
            "auto", a GPU if there is one that these settings run on; "cpu-torch", on the CPU what a GPU runs.
        keep_images: packed weights may come from the user's cache, and go there (`hanok.engine.images`).

    Raises:
        ConfigError: a device that is not there; weights of a kind that this model does not run with here; a draft model that does
            not fit it.
    """

    def __init__(
        self, model_dir: Path, *, threads: int | None = None, weights: Weights = "auto", max_running: int = 128,
        cache_bytes: int | None = None, cache_type: CacheKind = "bf16", speculation: Speculation = "auto",
        draft_dir: Path | None = None, max_waiting: int | None = None, adapters: Mapping[str, Path] = {},
        team: Team | None = None, device: str = "cpu", keep_images: bool = True,
    ) -> None:  # fmt: skip
        if max_waiting is not None and max_waiting < 1:
            raise ConfigError(f"max_waiting = {max_waiting}", remedy="it must be at least 1")
        if max_running < 1:
            raise ConfigError(f"max_running = {max_running}", remedy="it must be at least 1")
        if threads is not None:
            torch.set_num_threads(threads)
        self.tokenizer = Tokenizer.load(model_dir)
        self.config = config = load_config(model_dir)
        self.device = choose_place(
            device,
            weights=weights,
            cache_type=cache_type,
            speculation=speculation,
            draft_dir=draft_dir,
            team=team,
        )
        self.weights = choose_weights(weights, cache_type, config, model_dir, team, self.device)
        if self.device is None:
            check_speculation(speculation, draft_dir, config, native=self.weights != "float32")
        self._vocabulary = min(self.tokenizer.vocab_size, config.vocab_size)
        super().__init__()
        self._grammars = Grammars(self.tokenizer, vocabulary=self._vocabulary)
        self._arrivals = itertools.count()
        self._max_waiting = max_waiting
        self._updated = False
        self._change = threading.Lock()  # one `sleep` or `wake` at a time
        self._adapters = Adapters()
        self._posts = Posts()
        self._options = BackendOptions(
            model_dir=model_dir, config=config, weights=self.weights, vocabulary=self._vocabulary,
            max_running=max_running, cache_bytes=cache_bytes, cache_type=cache_type,
            tokenizer=self.tokenizer, speculation=speculation, draft_dir=draft_dir, team=team, device=self.device,
            keep_images=keep_images,
        )  # fmt: skip
        self._build()
        for name, directory in adapters.items():
            self.load_adapter(name, directory)
        # a thread inside torch must not meet the end of the interpreter
        self._at_exit = partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)

    def _build(self) -> None:
        """Weights, cache and scheduler: what sleeping gives up."""
        backend = build_backend(self._options)
        self.decoder, self._paged, self._scheduler = backend.decoder, backend.paged, backend.scheduler
        self.max_context, self.has_heads = backend.max_context, backend.has_heads
        self._scheduler.counters = self._counters

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, batched; results in the order given.

        Raises:
            InputError, ContextLengthError: a request that cannot run; none of them is started.
            QueueFullError: more than may wait.
        """
        for request in requests:
            self.check(request)
        self.check_room(len(requests))
        done = threading.Semaphore(0)
        errors: list[Exception] = []

        def listen(delta: Delta) -> None:
            if delta.finish_reason is not None:
                done.release()

        def fail(error: Exception) -> None:
            errors.append(error)
            done.release()

        generations = [self._new(request, listen, fail, last_only=True) for request in requests]
        self._submit(generations)
        try:
            for _ in generations:
                done.acquire()
        finally:
            self._cancel(generations)
        if errors:
            raise errors[0]
        return [generation.completion for generation in generations]

    def stream(self, request: Request) -> AsyncIterator[Delta]:
        """Deltas as they come. Closing the iterator, or cancelling the task that reads it, cancels the request.

        Raises:
            InputError, ContextLengthError, QueueFullError: at once, before the first delta.
        """
        self.check(request)
        self.check_room(1)
        return self._deltas(request)

    def follow(self, request: Request, told: Callable[[Delta | Exception], None]) -> Callable[[], None]:
        """`stream` without an iterator: `told` is called on the running event loop with each delta, or with the error that ended
        the request. Returns what cancels it; some deltas may still come behind that.

        Raises:
            InputError, ContextLengthError, QueueFullError: at once.
        """
        self.check(request)
        self.check_room(1)
        return self._follow(request, told)

    async def begun(self) -> None:
        """Once the thread that runs the model has all that was followed on this event loop: until then it may gather them."""
        await self._posts.here()[1].over()

    def load_adapter(self, name: str, directory: Path) -> Adapter:
        """Take in a LoRA adapter in PEFT's files; requests choose it by its name, rows of several run in one batch.

        Raises:
            ConfigError: a name that is taken or that is none. CheckpointError: not an adapter of this model.
        """
        refuse_in_team(self._options.team, "adapters are loaded")
        with self._model:
            self._check_awake()
            decoder, paged = self.decoder, self._paged
        return self._adapters.load(name, directory, decoder, model=paged)

    def unload_adapter(self, name: str) -> None:
        """Take no more requests for it; those that were taken finish with it. Raises InputError: there is none."""
        self._adapters.unload(name)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Those that are loaded, by name; they outlive a sleep."""
        return self._adapters.all()

    def score(self, ids: Sequence[int], *, adapter: str | None = None) -> list[float]:
        """log p(ids[t] | ids[:t]) for t >= 1, in nats."""
        held = self._adapters.find(adapter)
        self._check_ids(ids, what="the sequence")
        if len(ids) < 2:
            return []
        with self._model, torch.inference_mode():
            self._check_awake()
            targets_N = torch.tensor(ids[1:])
            scores: list[float] = []
            parts = (
                text_logits(self.decoder, ids[:-1], lows_of(held), rows=_ROWS)
                if self._paged is None
                else self._paged.read(ids[:-1], rows=_ROWS, adapter=held_of(held))
            )
            for logits_nV, targets_n in zip(parts, targets_N.split(_ROWS), strict=True):
                scores += (
                    logits_nV[:, : self._vocabulary]
                    .log_softmax(-1)
                    .gather(1, targets_n[:, None].to(logits_nV.device))
                    .squeeze(1)
                    .tolist()
                )
        return scores

    def embed(self, ids: Sequence[int], layer: int, *, adapter: str | None = None) -> Tensor:
        """Hidden vectors [len(ids), D], float32, after block `layer` (from 0), or after the final norm (-1); of the weights
        as they are stored, whatever `weights` says; on a device of those that run there."""
        return self.embed_texts([ids], [layer], adapter=adapter)[0][0]

    def embed_texts(
        self, texts: Sequence[Sequence[int]], layers: Sequence[int], *, adapter: str | None = None
    ) -> list[list[Tensor]]:
        """`embed` of each text, for each layer: one pass of all together, between two steps of what else runs."""
        for ids in texts:
            self._check_ids(ids, what="the sequence")
        held, most = self._adapters.find(adapter), self.config.num_layers
        for layer in layers:
            if not -1 <= layer < most:
                raise InputError(
                    f"layer = {layer} of a model with {most} layers", remedy=f"choose -1 to {most - 1}"
                )
        with self._model, torch.inference_mode():
            self._check_awake()
            if isinstance(self._paged, DeviceDecoder):
                return self._paged.embed(texts, held_of(held), layers=layers)
            return hidden_after(self.decoder, texts, lows_of(held), layers=layers)

    def update_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace named tensors in place, between two steps; running requests go on with the new weights. Adapters stay as
        they are and add to the new ones."""
        refuse_in_team(self._options.team, "weights are replaced")
        self._check_awake()
        mine = tensors_to_replace(self.decoder, weights, self._paged)
        with self._model, torch.no_grad():
            self._check_awake()
            self._updated = True
            for name, tensor in weights.items():
                mine[name].data = (
                    tensor.detach().to(mine[name].dtype).clone()
                )  # the old one may be a file, mapped
            if self._paged is not None:
                self._paged.refill()
                self._scheduler.forget_past()

    def sleep(self, *, forget_updates: bool = False) -> None:
        """Give up the weights and the cache, until `wake`. Answers under way are finished first; requests that come
        meanwhile wait for `wake`.

        Args:
            forget_updates: even if `update_weights` gave the model tensors that its directory does not have.

        Raises:
            ConfigError: there are such tensors.
        """
        refuse_in_team(self._options.team, "a model is put to sleep")
        if self._updated and not forget_updates:
            raise ConfigError(
                "the weights in memory are not those of the directory",
                remedy="save them there, or sleep(forget_updates=True)",
            )
        with self._change:
            with self._wake:
                self._resting = True
                try:
                    self._wake.wait_for(
                        lambda: self._asleep or self._closed or not self._scheduler.has_work()
                    )
                except BaseException:  # Ctrl-C while an answer is finished: nobody else would end the rest
                    self._resting = False
                    self._wake.notify_all()
                    raise
                if self._asleep or self._closed:
                    return
                self._asleep = True
            with self._model:
                self._let_go()
            release_memory()

    def close(self) -> None:
        """Cancel what is under way, end the thread, and give back weights, cache and adapters. The engine takes no more calls."""
        super().close()
        atexit.unregister(self._at_exit)
        if self._thread is threading.current_thread():  # a listener's call, inside a step
            return
        with self._change, self._model:
            with self._wake:
                held, self._asleep = not self._asleep, True
            if held:
                self._let_go()
            self._adapters.clear()
        trim()

    def _let_go(self) -> None:
        del self.decoder, self._paged, self._scheduler
        self._updated = False

    def wake(self) -> None:
        """Read the weights again and go on with what waits. Raises InputError: the engine is closed."""
        with self._change:
            self._check_open()
            if self._asleep:
                with self._model:
                    self._build()
            with self._wake:
                self._resting = self._asleep = False
                self._wake.notify_all()

    def metrics(self) -> EngineMetrics:
        """What the engine has done so far and what it holds now."""
        with self._wake:
            if self._asleep:
                return measure(self._counters, None, None, inbox=len(self._inbox) + len(self._gathered))
            pool = None if self._paged is None else self._paged.pool
            return measure(
                self._counters, self._scheduler, pool, inbox=len(self._inbox) + len(self._gathered)
            )

    def check_room(self, requests: int) -> None:
        """Raises QueueFullError if so many more would wait longer than the queue may be."""
        if self._max_waiting is None:
            return
        with self._wake:
            waiting, places = len(self._inbox) + len(self._gathered), self._options.max_running
            if not self._asleep:
                waiting, places = waiting + self._scheduler.waiting, self._scheduler.places
        if waiting + requests > self._max_waiting + places:
            raise QueueFullError(waiting=waiting, limit=self._max_waiting, retry_after=RETRY_SECONDS)

    def check(self, request: Request) -> None:
        """Raises InputError (StructureError where its structure is at fault) or ContextLengthError if the request cannot run."""
        self._check_ids(request.prompt_ids, what="the prompt")
        self._adapters.find(request.adapter)
        unknown = [token for token in request.params.logit_bias if not 0 <= token < self._vocabulary]
        if unknown:
            raise InputError(
                f"logit_bias names token {unknown[0]}",
                remedy=f"ids go up to {self._vocabulary - 1}",
            )
        if request.params.temperature_scale != 1.0 and not self.has_heads:
            raise InputError(
                f"temperature_scale = {request.params.temperature_scale} of a model without decoding heads",
                remedy="leave it out, or set temperature",
            )
        if request.params.structure is not None:
            self._grammars.check(request.params.structure)

    def _check_ids(self, ids: Sequence[int], *, what: str) -> None:
        check_ids(ids, what=what, vocabulary=self._vocabulary, context=self.max_context)

    async def _deltas(self, request: Request) -> AsyncIterator[Delta]:
        queue: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        cancel = self._follow(request, queue.put_nowait)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            cancel()

    def _follow(self, request: Request, told: Callable[[Delta | Exception], None]) -> Callable[[], None]:
        post, gathering = self._posts.here()
        tell = partial(post.send, told)
        generation = self._new(request, tell, tell)
        self._submit_with_others(generation, gathering)
        return partial(self._cancel, [generation])

    def _new(
        self, request: Request, listen: Callable[[Delta], None], fail: Callable[[Exception], None], *,
        last_only: bool = False,
    ) -> Generation:  # fmt: skip
        return new_generation(
            request, arrival=next(self._arrivals), tokenizer=self.tokenizer, context=self.max_context,
            listener=listen, failed=fail, grammars=self._grammars, has_heads=self.has_heads,
            adapter=self._adapters.find(request.adapter), last_only=last_only,
        )  # fmt: skip

    def _rebuild(self, cause: Exception) -> None:
        if self._updated:  # the directory does not have what the model was told
            self._pulse.broken = f"{type(cause).__name__}, and its weights are nowhere but in memory"
            return
        try:
            with self._model:
                self._build()  # the old one goes when the new one is there, since others look at it meanwhile
        except Exception as error:
            log.critical("the engine cannot be built again", exc_info=error)
            self._pulse.broken = type(error).__name__

    def _check_awake(self) -> None:
        self._check_open()
        if self._asleep:
            raise InputError("the engine is asleep", remedy="call wake() first")


def _close(engine: weakref.ref[LocalEngine]) -> None:
    alive = engine()
    if alive is not None:
        alive.close()
