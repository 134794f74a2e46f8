"""The command line: one table of commands, each a function in a module that is imported only when it is called.

Results go to standard output (as one JSON object with `--json`), everything else to standard error.
Exit codes: 0 done, 2 the input is at fault (one message, no traceback), 75 stopped and resumable, 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# words -> (module, function, help)
COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "run": ("run", "run", "run a recipe through all eight steps, or go on where it stopped"),
    "runs list": ("runs", "list_runs", "runs on this disk with their state, size and result"),
    "runs compare": ("runs", "compare", "two or more runs side by side: settings that differ, and results"),
    "runs prune": ("runs", "prune", "delete checkpoints by a retention rule, within a disk budget"),
    "data collect": ("data", "collect", "step 1: read documents into a corpus"),
    "data clean": ("data", "clean", "step 2: normalise, filter, de-duplicate, redact personal data"),
    "data village": ("data", "village", "write the embedded corpus: a fictional hanok village"),
    "data village-alignment": (
        "data",
        "village_alignment",
        "pairs, prompts and an exam for aligning a village model",
    ),
    "data parity": (
        "data",
        "parity",
        "puzzles with long and short answers, for RL after next-token prediction",
    ),
    "data ledger": ("data", "ledger", "puzzles whose sum is carried along, for thinking in chunks"),
    "data village-safety": (
        "data",
        "village_safety",
        "pairs and an exam for tuning a village model's safety",
    ),
    "data canaries": ("data", "canaries", "put canaries into a corpus, for `hanok audit privacy`"),
    "data judge": ("judge", "judge", "a judge labels pairs of answers by a constitution"),
    "data revise": ("judge", "revise", "answers criticised and revised by a constitution"),
    "data split": ("data", "split", "step 3: leak-free train, validation and test"),
    "data tokenizer": ("data", "tokenizer", "step 3: train a byte-level BPE tokeniser"),
    "data shards": ("data", "shards", "step 3: encode into memory-mapped token shards"),
    "model plan": ("model", "plan", "step 4: parameters, memory, training time and speed on this machine"),
    "model inspect": ("model", "inspect", "what a model directory or GGUF file holds, without loading it"),
    "model convert": ("model", "convert", "write a model in another form; merge an adapter in"),
    "model export": ("model", "export", "write a model directory that vLLM serves as Hanok does"),
    "model merge": ("model", "merge", "merge models of one shape: linear, slerp, ties, dare"),
    "model extend": ("model", "extend", "new tokens for a model from your documents"),
    "model diff": ("model", "diff", "how far the tensors of one model are from another's"),
    "model keygen": ("signing", "keygen", "a pair of keys for signing what you make"),
    "model sign": ("signing", "sign", "sign every file of a model directory"),
    "model verify-signature": ("signing", "verify_signature", "whether a directory is what a key has signed"),
    "train": ("train", "train", "step 5: pre-train or fine-tune on token shards"),
    "align": ("align", "align", "step 5: preferences or rewards into a better model"),
    "align distill": ("distill", "distill", "step 5: a smaller model from a larger one's answers or law"),
    "align predict": ("align", "predict", "where a run of practice will end, while it runs"),
    "align autodeco": (
        "autodeco",
        "autodeco",
        "step 5: heads that choose temperature and top-p for each token",
    ),
    "align autodeco-control": (
        "autodeco",
        "autodeco_control",
        "step 5: such heads follow words in the prompt",
    ),
    "eval": ("eval", "verify", "step 6: bits per byte, village accuracy, samples; one report"),
    "eval safety": (
        "eval",
        "safety",
        "step 6: refusals, over-refusals, injected instructions; with intervals",
    ),
    "eval compare": ("eval", "compare", "two evaluations of one exam, or two models: what changed"),
    "compress": ("compress", "compress", "step 7: a smaller model: rtn, hqq, gptq, awq"),
    "chat": ("chat", "chat", "step 7: talk to a model in the terminal"),
    "documents add": ("documents", "add", "files and folders into a collection that answers come from"),
    "documents list": ("documents", "list_documents", "collections, or the files in one"),
    "documents search": ("documents", "search", "the passages of a collection that a question finds"),
    "documents remove": ("documents", "remove", "files out of a collection, or the whole collection"),
    "serve": ("serve", "serve", "step 7: OpenAI-compatible server and chat page"),
    "guard train": ("guard", "train", "a detector of injected instructions from labelled rows"),
    "guard train-probe": ("probe", "train", "a second look by a model's own hidden vectors"),
    "guard test-probe": ("probe", "compare", "what that adds, on styles of attack that were not trained on"),
    "guard test": (
        "guard_test",
        "cross_test",
        "what it would catch: by set, language, register and disguise; time, rewording",
    ),
    "guard train-harm": ("guard", "train_harm", "a classifier of kinds of harm from rows with categories"),
    "guard test-harm": (
        "guard",
        "cross_test_harm",
        "what it would catch, by category and share of false alarms",
    ),
    "guard calibrate": ("guard", "calibrate", "set a detector's threshold by one's own traffic"),
    "guard try": ("guard", "try_out", "what a policy makes of a text, coming in and going out"),
    "guard explain": ("guard", "explain", "which words of a text raise a detector's score"),
    "guard watermark detect": ("watermark", "detect", "whether a text carries this deployment's watermark"),
    "guard watermark keys": ("watermark", "keys", "the keys that have marked"),
    "guard watermark rotate": ("watermark", "rotate", "mark with a new key"),
    "guard watermark export": ("watermark", "export", "a key for another machine's detector"),
    "guard attack": (
        "attack",
        "attack",
        "attack one's own server, compare with the run before, write it into the audit",
    ),
    "guard compare-attacks": (
        "attack_compare",
        "compare_attacks",
        "the same attacks before and after, with intervals over pairs",
    ),
    "keys create": ("keys", "create_key", "make a key for the API; it is shown once"),
    "keys list": ("keys", "list_keys", "keys, their roles, limits and last use"),
    "keys rotate": ("keys", "rotate_key", "a new key in the place of an old one"),
    "keys revoke": ("keys", "revoke_key", "end a key: running servers refuse it within a second"),
    "users create": ("keys", "create_user", "let somebody sign in on the page"),
    "users list": ("keys", "list_users", "people who may sign in"),
    "users change": ("keys", "change_user", "another role or password, or shut out"),
    "users delete": ("keys", "delete_user", "end an account, with all that is its own"),
    "usage": ("store", "usage", "what was used, by day, tenant, key and model"),
    "store migrate": ("store", "migrate", "bring a database to the tables of this version"),
    "store backup": ("store", "backup", "copy a database while it is used"),
    "store restore": ("store", "restore", "put a copy back"),
    "store check": ("store", "check", "test a database and count its rows"),
    "tenants create": ("keys", "create_tenant", "documents, cache, limits and people of their own"),
    "tenants list": ("keys", "list_tenants", "tenants and their limits"),
    "tenants change": ("keys", "change_tenant", "suspend, resume, set limits"),
    "tenants delete": ("keys", "delete_tenant", "delete a tenant and its content"),
    "audit verify": ("audit", "verify", "whether the log of who did what is whole, or what a proof shows"),
    "audit prove": ("audit", "prove", "a proof that an entry is in the log, for others to check"),
    "audit export": ("audit", "export", "entries as JSON lines"),
    "audit checkpoint": ("audit", "checkpoint", "sign what is in the log now"),
    "audit report": ("assurance", "report", "what AISVS and OWASP ask for, and what answers for it here"),
    "audit forget": ("audit", "forget", "destroy the keys of what was kept of somebody who was deleted"),
    "audit privacy": ("privacy", "privacy", "what a model gives away of its training texts, with a control"),
    "audit keys": ("audit", "keys", "the keys of the log, and what others need to check it"),
    "review list": ("review", "list_reviews", "what waits for a reviewer: feedback, flags, stopped rows"),
    "review show": ("review", "show", "one of them, with what was said and decided"),
    "review decide": ("review", "decide", "accept, correct or reject, with a reason"),
    "review agreement": ("review", "agreement", "how far reviewers agree beyond chance"),
    "review export": ("review", "export", "reviewed feedback as conversations and preference pairs"),
    "improve": ("improve", "improve", "step 8: learn from feedback and show before and after"),
    "canary start": ("canary", "start", "a share of the conversations for another model of a running server"),
    "canary show": ("canary", "show", "both models' answers compared, with intervals"),
    "canary share": ("canary", "share", "give it another share"),
    "canary promote": ("canary", "promote", "everybody gets the new model"),
    "canary rollback": ("canary", "rollback", "everybody gets the old one again"),
    "bench": ("bench", "bench", "compare with named peers on this machine"),
    "doctor": ("doctor", "doctor", "what this machine can do, and what that means"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    words = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_run(words))


def _run(words: list[str]) -> int:
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    if words[:1] == ["--version"]:
        import hanok

        print(f"hanok {hanok.__version__}")
        return 0
    name = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:
        return _overview(words)
    return _guarded(lambda: _call(name, words[len(name.split()) :], as_json))


def _overview(words: list[str]) -> int:
    """Help for the whole or for a group (`hanok data`); code 2 for a word that is no command."""
    from hanok.errors import did_you_mean

    asked = [word for word in words if not word.startswith("-")]
    group = [name for name in COMMANDS if asked and name.split()[0] == asked[0]]
    if asked and (not group or len(asked) > 1):
        known = group or list({name.split()[0]: None for name in COMMANDS})
        print(
            f'hanok: no command "{" ".join(asked[:2])}"; {did_you_mean(" ".join(asked[:2]), known)}',
            file=sys.stderr,
        )
        return 2
    shown = group or list(COMMANDS)
    print("Hanok: one house for the whole life of a language model.\n")
    print("usage: hanok COMMAND [options]      hanok COMMAND --help shows its options\n")
    for name in shown:
        print(f"  {name:<22} {COMMANDS[name][2]}")
    print("\n  --json           print the result as one JSON object\n  --version        print the version")
    print("\nStart here: hanok run quickstart")
    return 0 if not asked or "--help" in words or "-h" in words else 2


def _call(name: str, rest: list[str], as_json: bool) -> None:
    module, function_name, _ = COMMANDS[name]
    function: Callable[..., Any] = getattr(importlib.import_module(f"hanok.cli.{module}"), function_name)
    import tyro

    from hanok.errors import AuditError

    # with --json the object stands alone on standard output, whatever else a command prints there
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        try:
            result = tyro.cli(function, args=rest, prog=f"hanok {name}", config=(tyro.conf.OmitArgPrefixes,))
        except AuditError as error:
            if as_json:
                print(json.dumps(error.report, ensure_ascii=False, default=str), file=sys.__stdout__)
            raise
    if as_json:
        print(json.dumps(result or {}, ensure_ascii=False, default=str))


def _guarded(call: Callable[[], None]) -> int:
    import logging

    from hanok.errors import HanokError, Interrupted

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("hanok").setLevel(logging.INFO)
    debug = os.environ.get("HANOK_DEBUG") == "1"
    try:
        call()
        return 0
    except HanokError as error:
        if debug:
            raise
        print(f"hanok: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as stop:
        print(f"hanok: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("hanok: interrupted; run the same command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(
            f"hanok: unexpected {type(error).__name__}: {error}; HANOK_DEBUG=1 shows where", file=sys.stderr
        )
        return 1
