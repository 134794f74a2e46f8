"""OpenTelemetry: a span for each request that worked on something, and inside it one for each piece of work of a model.

Spans are made when a request is over, from what is known of it then; its content is never in them. A `traceparent` header makes
the caller's span the parent, and its sampling decision holds.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from hanok.errors import ConfigError
from hanok.server.exchange import Exchange, Outcome
from hanok.server.operations.requests import HttpRequest

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
# ours: OpenTelemetry's. The one table of names of the semantic conventions for generative AI, as of SCHEMA
GENAI: Mapping[str, str] = {
    "operation": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "request_model": "gen_ai.request.model",
    "response_model": "gen_ai.response.model",
    "response_id": "gen_ai.response.id",
    "max_tokens": "gen_ai.request.max_tokens",
    "stream": "gen_ai.request.stream",
    "finish_reasons": "gen_ai.response.finish_reasons",
    "first_chunk": "gen_ai.response.time_to_first_chunk",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
}
# our routes: operations that the conventions know
OPERATIONS: Mapping[str, str] = {"completions": "text_completion", "embeddings": "embeddings"}
_LONGEST = 5.0  # seconds to hand over the last spans at the end


class Traces:
    """A `Watcher` of HTTP requests.

    Args:
        exporter: of OpenTelemetry's SDK. share: of traces that begin here which are kept. file: closed at the end.
    """

    def __init__(self, exporter: Any, *, share: float = 1.0, file: IO[str] | None = None) -> None:
        sdk, resources, sampling, batching = (
            importlib.import_module(f"opentelemetry.sdk.{name}")
            for name in ("trace", "resources", "trace.sampling", "trace.export")
        )
        self._file = file
        self._api = importlib.import_module("opentelemetry.trace")
        self._propagation = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
        self._provider = sdk.TracerProvider(
            resource=resources.Resource.create({"service.name": "hanok"}),
            sampler=sampling.ParentBased(sampling.TraceIdRatioBased(share)),
        )
        self._provider.add_span_processor(batching.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hanok.server", schema_url=SCHEMA)

    def finished(self, request: HttpRequest) -> None:
        if not request.work:
            return
        parent = self._propagation.TraceContextTextMapPropagator().extract(
            {"traceparent": request.traceparent}
        )
        ends = time.time_ns()
        span = self._tracer.start_span(
            f"{request.method} {request.route}", context=parent, kind=self._api.SpanKind.SERVER,
            start_time=ends - int(request.seconds * 1e9),
            attributes={
                "http.request.method": request.method, "http.route": request.route,
                "http.response.status_code": request.status, "hanok.request_id": request.id,
            },
        )  # fmt: skip
        if request.status >= 500 or request.failure:
            span.set_status(self._api.StatusCode.ERROR)
        inside = self._api.set_span_in_context(span)
        for exchange, outcome in request.work:
            self._record(exchange, outcome, inside)
        span.end(end_time=ends)

    def close(self) -> None:
        self._provider.force_flush(int(1000 * _LONGEST))
        self._provider.shutdown()
        if self._file is not None:
            self._file.close()

    def _record(self, exchange: Exchange, outcome: Outcome, context: Any) -> None:
        operation = OPERATIONS.get(exchange.route, "chat")
        begins = time.time_ns() - int((time.monotonic() - exchange.started) * 1e9)
        span = self._tracer.start_span(
            f"{operation} {exchange.model}", context=context, kind=self._api.SpanKind.INTERNAL,
            start_time=begins, attributes=attributes(operation, exchange, outcome),
        )  # fmt: skip
        if outcome.reason == "error":
            span.set_status(self._api.StatusCode.ERROR)
        span.end(end_time=begins + int(outcome.seconds * 1e9))


def attributes(operation: str, exchange: Exchange, outcome: Outcome) -> dict[str, Any]:
    """By OpenTelemetry's names; what is unknown is left out."""
    facts: dict[str, Any] = {
        "operation": operation, "provider": "hanok",
        "request_model": exchange.model, "response_model": exchange.model, "response_id": exchange.id,
        "max_tokens": exchange.max_tokens, "stream": exchange.streamed, "finish_reasons": (outcome.reason,),
        "prompt_tokens": exchange.prompt_tokens, "completion_tokens": outcome.completion_tokens,
        "cached_tokens": outcome.cached_tokens, "first_chunk": outcome.first_token_seconds,
    }  # fmt: skip
    return {GENAI[name]: value for name, value in facts.items() if value is not None}


def open_traces(target: str, *, share: float = 1.0) -> Traces:
    """Args: target: "http://collector:4318/v1/traces", or a file that gets a JSON object a span.

    Raises:
        ConfigError: a package is missing.
    """
    try:
        if target.startswith(("http://", "https://")):
            http = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            return Traces(http.OTLPSpanExporter(endpoint=target), share=share)
        export = importlib.import_module("opentelemetry.sdk.trace.export")
    except ImportError as error:
        raise ConfigError(
            f"traces need OpenTelemetry, of which something is not installed ({error})", remedy="pip install 'hanok[otel]'"
        ) from error  # fmt: skip
    file = Path(target).open("a", encoding="utf-8")  # noqa: SIM115 - `Traces.close` closes it
    exporter = export.ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")
    return Traces(exporter, share=share, file=file)
