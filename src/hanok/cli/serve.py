"""`hanok serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hanok.engine.parallel.team import Team
    from hanok.server.hosting import ModelSpec
    from hanok.server.identity.provider import Provider
    from hanok.server.operations.config import ServeSettings


def serve(
    model: Annotated[Path | None, tyro.conf.Positional] = None,
    more: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    alias: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    models: Path | None = None,
    require_signature: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = (),
    most_loaded: int | None = None,
    models_mib: int | None = None,
    unload_seconds: float | None = None,
    host: str | None = None,
    port: int | None = None,
    weights: Literal["auto", "float32", "bf16", "int8", "int4+", "int4"] | None = None,
    device: str | None = None,
    cache_mib: int | None = None,
    cache_type: Literal["bf16", "int8"] | None = None,
    speculation: Literal["auto", "off", "lookup", "own"] | None = None,
    draft: Path | None = None,
    adapter: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    replicas: int | None = None,
    runtime: Literal["process", "ray"] | None = None,
    store: str | None = None,
    allowed_host: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    trusted_proxy: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    trust_loopback: bool = False,
    setup: bool = False,
    oidc_issuer: str | None = None,
    oidc_client: str | None = None,
    oidc_name: str | None = None,
    oidc_role: str | None = None,
    url: str | None = None,
    guard: str | None = None,
    prices: Path | None = None,
    request_timeout: float | None = None,
    max_queue: int | None = None,
    max_queue_tokens: int | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    log_format: Literal["text", "json"] | None = None,
    log_level: Literal["debug", "info", "warning", "error"] | None = None,
    traces: str | None = None,
    trace_share: float | None = None,
    grace: float | None = None,
    max_connections: int | None = None,
    header_seconds: float | None = None,
    body_seconds: float | None = None,
    write_seconds: float | None = None,
    keep_alive_seconds: int | None = None,
    max_body_mib: int | None = None,
    max_upload_mib: int | None = None,
    document_vectors: Literal["spelling", "model"] | None = None,
    audit: bool = True,
    audit_dir: Path | None = None,
    audit_mirror: Path | None = None,
    audit_content: bool = False,
    audit_content_days: float | None = None,
    reviewers: int | None = None,
    review_flags: Annotated[
        tuple[Literal["flag", "redact", "ask", "block"], ...], tyro.conf.UseAppendAction
    ] = (),
    config: Path | None = None,
    check_config: bool = False,
) -> dict[str, Any] | None:
    """Serve a model: OpenAI-compatible API under /v1 and a chat page on /. Under `torchrun` its processes share the model.

    What is not given here comes from the environment (HANOK_SERVE_PORT for --port), else from the file of --config, else is the
    default.

    Args:
        model: a model directory, or a run (then its servable model); default runs/quickstart.
        more: further models, DIR or NAME=DIR, loaded when somebody asks for them by their name.
        alias: NAME=MODEL, another name by which a model may be asked for, as of clients that know one alone; several times for
            several. Keys name the models themselves.
        models: TOML file with further models: tables [[model]] with path, and if wanted name, weights, cache_mib, adapters.
        require_signature: file with a public key: only models, drafts and adapters that it has signed are loaded (`hanok model
            sign`); several times for several, any of which will do.
        most_loaded: models in memory at once; the longest unused is unloaded for the next; default: any number.
        models_mib: memory for the weights (as their files have them) of all loaded models; default: any.
        unload_seconds: after its last request a model is unloaded; default: never.
        host: address to bind; others than this machine's are refused until there are keys; default 127.0.0.1.
        port: TCP port; 0 picks a free one; default 8080.
        weights: run in bfloat16, 8 or 4 bits on the native kernels; auto (the default): what the file holds, or bfloat16, where
            they know the model, else float32.
        device: cpu, cuda, cuda:N (a GPU), or auto (the default): a GPU if there is one that the other settings run on.
        cache_mib: memory for keys and values; default: by the model's context, 2048 at most, on a GPU 70 % of what is free.
        cache_type: of those keys and values; int8 takes about half the memory; default bf16.
        speculation: guess the next tokens where that makes answers quicker (it never changes them): auto (the default) takes
            guesses from the text and from the draft model or the model's own heads for later tokens (mtp), lookup from the text
            alone, own from those heads alone. On the native kernels only.
        draft: directory of a smaller model with the same tokeniser, to guess with.
        adapter: NAME=DIR, a LoRA adapter of the model in PEFT's files; several times for several. Each is a model of its own
            in the API, chosen by its name; requests for all of them run in one batch.
        replicas: engines behind one address, each with the whole model and its part of the cores (with runtime ray); default 1.
        runtime: where the engine runs: process, this one (default); ray, replicas under Ray Serve (needs the extra "ray").
        store: the database: a file, or postgresql://USER@HOST/NAME; default: a file beside the model. HANOK_STORE says it too.
        allowed_host: a name by which the server is called from elsewhere; several times for several.
        trusted_proxy: address or network of a reverse proxy, as 192.0.2.7; several times for several. Where a request comes from,
            and whether by HTTPS, is then what its X-Forwarded-For and X-Forwarded-Proto say.
        trust_loopback: who sits at this machine needs no key, even where there are keys.
        setup: print a token with which the first administrator is made on the page.
        oidc_issuer: identity provider that people may sign in through, as https://login.example.org. The secret of this server
            there is HANOK_OIDC_SECRET.
        oidc_client: what the provider calls this server (client id).
        oidc_name: of the provider, for the page.
        oidc_role: of people who come through it for the first time: viewer, user (the default) or reviewer.
        url: of this server from outside, where a proxy stands before it, as https://hanok.example.org.
        guard: TOML file with the rules for what comes in and goes out, "default" (secrets in answers are replaced) or "off".
        prices: TOML file with what a million tokens cost, by model, for budgets and usage; read again with the settings.
        request_timeout: seconds that a request may take; default any time. A request may ask for less (x-request-timeout).
        max_queue: requests that may wait; more are told to come back; default 512.
        max_queue_tokens: tokens of prompts that may wait; default any number.
        tls_cert: file with the certificate chain (PEM): the server speaks HTTPS then.
        tls_key: file with its private key.
        log_format: text for people (default), or json: an object a line.
        log_level: lines from this level on; default info.
        traces: where OpenTelemetry's spans go: the URL of a collector (http://127.0.0.1:4318/v1/traces), or a file.
        trace_share: of traces that begin here which are kept, 0 to 1; default 1.
        grace: seconds that answers under way may take after SIGTERM; default 20.
        max_connections: at a time; more are told to come back; default 4096.
        header_seconds: for a request's head to arrive; default 10.
        body_seconds: for its body, beside what 8 KiB a second earn; default 30.
        write_seconds: that a client may let an answer wait; default 30.
        keep_alive_seconds: that an idle connection is kept; default 75.
        max_body_mib: of a request's body; default 16.
        max_upload_mib: of an uploaded file; default 512.
        document_vectors: what finds passages beside their words: how they are spelt (the default), or the model's hidden vectors.
        audit: keep a log of who did what, which cannot be changed unseen (`hanok audit`).
        audit_dir: folder of its keys and checkpoints; default: beside the store. A store in PostgreSQL needs it.
        audit_mirror: a file on another disk that its checkpoints are written to as well.
        audit_content: keep what was asked and answered too, sealed for each person.
        audit_content_days: after so many days content is deleted; default: never.
        reviewers: people who must agree on each row of the review queue: 1 (the default) or 2.
        review_flags: what the guard did to a request that puts it into the review queue: flag, redact, ask, block; several times
            for several; default flag, ask and block.
        config: TOML file with these settings by the names of the flags (max_body_mib = 16).
        check_config: say what the settings are, and end.
    """
    import os

    from hanok.server.operations.config import resolve_settings

    options = dict(locals())
    flags = {
        name: options[name] for name in FLAGS if name != "audit" and options[name] not in (None, (), False)
    }
    if not audit:
        flags["audit"] = False
    file = config or (Path(os.environ["HANOK_SERVE_CONFIG"]) if "HANOK_SERVE_CONFIG" in os.environ else None)

    def settings_now() -> ServeSettings:
        return resolve_settings(flags, file=file)

    settings = settings_now()
    if check_config:
        return _show(settings)
    _serve(settings, settings_now)
    return None


FLAGS = (
    "model", "more", "alias", "models", "require_signature",
    "most_loaded", "models_mib", "unload_seconds", "host", "port", "weights", "device",
    "cache_mib",
    "cache_type", "speculation", "draft", "adapter", "replicas", "runtime", "store", "allowed_host", "trusted_proxy",
    "trust_loopback", "setup",
    "prices", "request_timeout", "max_queue", "max_queue_tokens",
    "oidc_issuer", "oidc_client", "oidc_name", "oidc_role", "url", "guard",
    "tls_cert", "tls_key", "log_format", "log_level", "traces", "trace_share", "grace", "max_connections", "header_seconds",
    "body_seconds", "write_seconds", "keep_alive_seconds", "max_body_mib", "max_upload_mib",
    "document_vectors", "audit", "audit_dir", "audit_mirror", "audit_content", "audit_content_days",
    "reviewers", "review_flags",
)  # fmt: skip


def provider_of(settings: ServeSettings) -> Provider | None:
    """Raises ConfigError for half of one."""
    import os

    from hanok.errors import ConfigError
    from hanok.server.identity.provider import Provider

    if not settings.oidc_issuer and not settings.oidc_client:
        return None
    if not settings.oidc_issuer or not settings.oidc_client:
        raise ConfigError("oidc_issuer and oidc_client belong together", remedy="give both or none")
    return Provider(
        issuer=settings.oidc_issuer, client_id=settings.oidc_client, name=settings.oidc_name, role=settings.oidc_role,
        client_secret=os.environ.get("HANOK_OIDC_SECRET", ""), url=settings.url,
    )  # fmt: skip


def _show(settings: ServeSettings) -> dict[str, Any]:
    import dataclasses
    import sys

    values = dataclasses.asdict(settings)
    for name, value in values.items():
        print(f"{name} = {value}", file=sys.stderr)
    return values


def _serve(settings: ServeSettings, source: Any) -> None:
    from hanok.cli.places import store_place
    from hanok.engine.adapters import parse_adapters
    from hanok.recipes.runs import servable_model
    from hanok.server.admission.prices import prices_in
    from hanok.server.identity.directory import Entry
    from hanok.server.operations.logs import install_logging

    install_logging(settings.log_format, settings.log_level)
    directory = servable_model(settings.model)
    options: dict[str, Any] = {
        "weights": settings.weights, "device": settings.device, "cache_bytes": settings.cache_mib and settings.cache_mib << 20,
        "cache_type": settings.cache_type, "speculation": settings.speculation, "draft_dir": settings.draft,
        "adapters": parse_adapters(settings.adapter),
    }  # fmt: skip
    place = store_place(settings.store, settings.model)
    entry = Entry(
        trust_loopback=settings.trust_loopback, allowed_hosts=settings.allowed_host, setup=settings.setup,
        trusted_proxies=settings.trusted_proxy,
        request_timeout=settings.request_timeout, max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        provider=provider_of(settings),
        prices=prices_in(settings.prices),
    )  # fmt: skip
    further = _further(settings, options)
    if settings.runtime == "ray" and (further or settings.alias):
        from hanok.errors import ConfigError

        raise ConfigError(
            "several models, or aliases, in replicas",
            remedy="serve them in one process: without --runtime ray",
        )
    if settings.runtime == "ray":
        from hanok.engine.parallel.start import refuse_together
        from hanok.server.replicas import serve_replicas

        refuse_together("Ray starts its replicas itself", remedy="start hanok serve without torchrun")
        serve_replicas(
            directory, replicas=settings.replicas, host=settings.host, port=settings.port, store=place, entry=entry,
            options=options, settings=settings, source=source,
        )  # fmt: skip
        return
    if settings.replicas != 1:
        from hanok.errors import ConfigError

        raise ConfigError(f"{settings.replicas} replicas in one process", remedy="add --runtime ray")
    from hanok.artefacts.signing import Trusted
    from hanok.engine.parallel.start import run_together
    from hanok.server.app import serve as serve_model

    def work(team: Team | None) -> None:
        serve_model(
            directory, host=settings.host, port=settings.port, team=team, settings=settings, source=source, store=place,
            entry=entry, more=further, **options,
        )  # fmt: skip

    trusted = Trusted.of(settings.require_signature)
    run_together(directory, work, check=None if trusted is None else trusted.check)


def _further(settings: ServeSettings, options: Mapping[str, Any]) -> list[ModelSpec]:
    """With the settings of the first model, but for its draft and its adapters."""
    import dataclasses

    from hanok.recipes.runs import servable_model
    from hanok.server.hosting import parse_model, read_models

    own = {name: options[name] for name in ("weights", "device", "cache_bytes", "cache_type", "speculation")}
    own["max_waiting"] = settings.max_queue
    specs = [parse_model(option, own) for option in settings.more]
    specs += read_models(settings.models, own) if settings.models else []
    return [dataclasses.replace(spec, directory=servable_model(spec.directory)) for spec in specs]
