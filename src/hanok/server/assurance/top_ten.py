"""OWASP Top 10 for LLM applications, 2026: the risks, and what answers for each here. It lists risks and asks for nothing that can
be tested as such; a row is met where the controls that bear on it are in force."""

from __future__ import annotations

from hanok.server.assurance.checks import Control, all_of, audited, built, operators, rule, signed, withstood

ROWS = (
    Control("LLM01", 0, "prompt injection", "F18, F20, tests/guard", all_of(built("control tokens never come from content"), rule("detector", "probe", "external", on="input"), rule("egress", stops=True), withstood("override", "planted-document", "planted-tool"))),
    Control("LLM02", 0, "disclosure of sensitive information", "F19, F31, F32", all_of(rule("secrets", on="output", stops=True), rule("personal-data", on="output", stops=True))),
    Control("LLM03", 0, "too much agency", "F35, tests/guard/test_egress.py", all_of(built("calls are carried out by clients; code runs shut in"), rule("egress", stops=True))),
    Control("LLM04", 0, "supply chain", "F36, requirements/ with hashes, tests/server/test_signed_models.py", signed),
    Control("LLM05", 0, "poisoned data and models", "tests/data/test_poison.py, tests/improvement/test_poisoning.py, F36", operators("scans are part of cleaning and of learning from feedback; who may give feedback is the operator's choice")),
    Control("LLM06", 0, "unbounded consumption", "F12 to F17, F30", all_of(built("queues, connections, bodies and answers are bounded"), operators("limits for each key and tenant are the operator's"))),
    Control("LLM07", 0, "misinformation", "docs/guides/documents.md, hanok eval", operators("citations and support are shown; what a model was taught decides the rest")),
    Control("LLM08", 0, "hidden context comes to light", "F19, hanok guard attack", all_of(rule("hidden-text", on="output", stops=True), withstood("leak"))),
    Control("LLM09", 0, "weaknesses of vectors and embeddings", "F32, tests/documents", built("tenants' collections are apart, and answers cite what was found")),
    Control("LLM10", 0, "answers are used unchecked", "tests/server/test_structure.py, tests/server/test_page_markdown.py", all_of(rule("unseen", on="output", stops=True), rule("markup", on="output", stops=True), audited("verdict"))),
)  # fmt: skip
