"""Signed directories: whatever is not as it was signed is found and named, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hanok.artefacts import MANIFEST, create_artefact, open_artefact, signing
from hanok.artefacts.signing import SIGNATURE, Trusted, load_private, load_public, make_key, sign
from hanok.cli import _run
from hanok.errors import ArtefactError, ConfigError, SignatureError

FILES = {
    "config.json": "{}",
    "model.safetensors": "weights",
    "sub/.hidden": "x",
    "report.html": "a log",
    "모델.txt": "말",
}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Files maker, maker.pub, other, other.pub."""
    for name in ("maker", "other"):
        make_key(tmp_path / "keys" / name)
    return tmp_path / "keys"


@pytest.fixture
def model(tmp_path: Path, keys: Path) -> Path:
    """Signed by the maker."""
    place = tmp_path / "model"
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    sign(place, load_private(keys / "maker"))
    return place


def trusted(keys: Path, *names: str) -> Trusted:
    found = Trusted.of([keys / f"{name}.pub" for name in names])
    assert found is not None
    return found


def test_what_was_signed_is_found_so(model: Path, keys: Path, tmp_path: Path) -> None:
    found = trusted(keys, "maker").check(model)
    assert (found.key_id, found.name, found.files) == (
        load_public(keys / "maker.pub").id,
        "model",
        len(FILES),
    )
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert trusted(keys, "other", "maker").check(copy) == found
    (tmp_path / "current").symlink_to(copy)  # the directory itself may be reached by a link
    assert trusted(keys, "maker").check(tmp_path / "current") == found


def test_the_form_is_that_of_model_signing(model: Path, keys: Path) -> None:
    """Read here without the product's code: in-toto statement, DSSE, a bundle, as the specification has them."""
    bundle = json.loads((model / SIGNATURE).read_text())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert (
        bundle["verificationMaterial"]["publicKey"]["hint"]
        == hashlib.sha256((keys / "maker.pub").read_bytes()).hexdigest()
    )
    envelope = bundle["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    load_public(keys / "maker.pub").key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    statement = json.loads(payload)
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    listed = [(one["name"], one["algorithm"], one["digest"]) for one in statement["predicate"]["resources"]]
    assert listed == [
        (name, "sha256", hashlib.sha256(FILES[name].encode()).hexdigest()) for name in sorted(FILES)
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for *_, digest in listed)).hexdigest()
    assert statement["subject"] == [{"name": "model", "digest": {"sha256": root}}]


def linked(place: Path) -> None:
    (place / "config.json").rename(place.parent / "away.json")
    (place / "config.json").symlink_to(place.parent / "away.json")


TAMPERED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a changed file": (lambda place: (place / "config.json").write_text("{ }"), "changed: config.json"),
    "a file of the same size": (lambda place: (place / "model.safetensors").write_text("Weights"), "changed: model.safetensors"),
    "an added file": (lambda place: (place / "chat_template.jinja").write_text("x"), "added: chat_template.jinja"),
    "an added file below": (lambda place: (place / "sub" / "more").write_text("x"), "added: sub/more"),
    "an added log": (lambda place: (place / "metrics.jsonl").write_text("{}"), "added: metrics.jsonl"),
    "a removed file": (lambda place: (place / "sub" / ".hidden").unlink(), "missing: sub/.hidden"),
    "a link to the same content": (linked, "a link: config.json"),
    "a link to a folder": (lambda place: (place / "more").symlink_to(place.parent), "a link: more"),
    "another name": (lambda place: (place / "config.json").rename(place / "other"), "added: other; missing: config.json"),
    "no signature": (lambda place: (place / SIGNATURE).unlink(), "is not signed: there is no model.sig"),
    "no bundle": (lambda place: (place / SIGNATURE).write_text("[]"), "cannot be read"),
    "half a bundle": (lambda place: (place / SIGNATURE).write_text('{"dsseEnvelope": {}}'), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_was_done_to_it_is_named(what: str, model: Path, keys: Path) -> None:
    tamper, why = TAMPERED[what]
    trusted(keys, "maker").check(model)
    tamper(model)
    with pytest.raises(SignatureError) as error:
        trusted(keys, "maker").check(model)
    assert why in error.value.why
    assert str(model) in str(error.value)
    assert str(model) not in error.value.why


def test_another_key_is_not_trusted(model: Path, keys: Path) -> None:
    own, other = (load_public(keys / f"{name}.pub").id[:16] for name in ("maker", "other"))
    with pytest.raises(
        SignatureError, match=f"signed by key {own}, which is not trusted.*trusted is {other}"
    ):
        trusted(keys, "other").check(model)
    (model / "config.json").write_text("{ }")
    sign(model, load_private(keys / "other"))  # whoever changed it signs it
    with pytest.raises(SignatureError, match="not trusted"):
        trusted(keys, "maker").check(model)


def edited(model: Path, change: Callable[[Any], None], key: Path | None = None) -> None:
    """The statement changed; signed anew, or with its old signature."""
    bundle = json.loads((model / SIGNATURE).read_text())
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    if key is not None:
        kind = envelope["payloadType"]
        signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        envelope["signatures"][0]["sig"] = base64.b64encode(load_private(key).sign(signed)).decode()
    (model / SIGNATURE).write_text(json.dumps(bundle))


def without_config(statement: Any) -> None:
    kept = [one for one in statement["predicate"]["resources"] if one["name"] != "config.json"]
    statement["predicate"]["resources"] = kept
    joined = b"".join(bytes.fromhex(one["digest"]) for one in kept)
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(joined).hexdigest()


def test_a_statement_that_was_changed_is_not_signed(model: Path, keys: Path) -> None:
    """A file is taken away, and out of the list too; and the control: the same, signed by the maker."""
    (model / "config.json").unlink()
    edited(model, without_config)
    with pytest.raises(SignatureError, match="or its signature was changed"):
        trusted(keys, "maker").check(model)
    edited(model, without_config, keys / "maker")
    assert trusted(keys, "maker").check(model).files == len(FILES) - 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: one["predicate"]["resources"][0].update(name="../config.json"), "names outside"),
        (lambda one: one["predicate"]["resources"][0].update(name="/etc/passwd"), "names outside"),
        (lambda one: one["predicate"]["resources"][0].update(digest="00"), "a sum that is wrong"),
        (lambda one: one["predicate"]["resources"][0].update(digest="zz"), "cannot be read"),
        (lambda one: one["predicate"]["serialization"].update(allow_symlinks=True), "another way"),
        (
            lambda one: one.update(predicateType="https://slsa.dev/provenance/v1"),
            "a statement about https://slsa",
        ),
        (lambda one: one.pop("predicate"), "cannot be read"),
    ],
)
def test_statements_that_say_too_much_or_too_little(
    change: Callable[[Any], None], why: str, model: Path, keys: Path
) -> None:
    edited(model, change, keys / "maker")
    with pytest.raises(SignatureError, match=why):
        trusted(keys, "maker").check(model)


def test_links_are_not_signed(model: Path, keys: Path) -> None:
    linked(model)
    with pytest.raises(SignatureError, match=r"holds links: config\.json"):
        sign(model, load_private(keys / "maker"))
    (model.parent / "empty").mkdir()
    with pytest.raises(SignatureError, match="holds no files"):
        sign(model.parent / "empty", load_private(keys / "maker"))


def test_a_signature_that_lies_elsewhere(model: Path, keys: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart.sig"
    (model / SIGNATURE).unlink()
    sign(model, load_private(keys / "maker"), signature=apart)
    assert trusted(keys, "maker").check(model, signature=apart).files == len(FILES)
    with pytest.raises(SignatureError, match="not signed"):
        trusted(keys, "maker").check(model)
    (model / "below").mkdir(exist_ok=True)
    for name in ("own.sig", "below/model.sig"):
        with pytest.raises(ConfigError, match="lies in what it signs"):
            sign(model, load_private(keys / "maker"), signature=model / name)


def test_a_signature_is_no_part_of_what_it_signs(tmp_path: Path, keys: Path) -> None:
    """The hash of an artefact, and of a directory without a manifest, is the same before and after."""
    with create_artefact(tmp_path / "made", kind="model") as draft:
        (draft.path / "config.json").write_text("{}")
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "config.json").write_text("{}")
    for name in ("made", "found"):
        before = open_artefact(tmp_path / name).hash
        sign(tmp_path / name, load_private(keys / "maker"))
        assert open_artefact(tmp_path / name).hash == before
    assert trusted(keys, "maker").check(tmp_path / "made").files == 2
    (tmp_path / "made" / MANIFEST).write_text("{}")
    with pytest.raises(SignatureError, match=MANIFEST):
        trusted(keys, "maker").check(tmp_path / "made")


def test_keys_are_kept_and_never_written_over(keys: Path, tmp_path: Path) -> None:
    assert (keys / "maker").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="there already"):
        make_key(keys / "maker")
    with pytest.raises(ConfigError, match="holds a private key"):
        load_public(keys / "maker")
    with pytest.raises(ConfigError, match="no private key"):
        load_private_of(keys / "maker.pub", tmp_path)
    curve = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec").write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ec").chmod(0o600)
    (tmp_path / "ec.pub").write_bytes(
        curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for load, name in ((load_private, "ec"), (load_public, "ec.pub")):
        with pytest.raises(ConfigError, match="another kind of key"):
            load(tmp_path / name)
    (keys / "maker").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_private(keys / "maker")


def load_private_of(public: Path, folder: Path) -> Any:
    copy = Path(shutil.copy(public, folder / "copy"))
    copy.chmod(0o600)
    return load_private(copy)


def test_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with create_artefact(tmp_path / "model", kind="model") as draft:
        (draft.path / "config.json").write_text("{}")
    key, model = tmp_path / "maker.key", tmp_path / "model"
    check = ["model", "verify-signature", str(model), "--key", str(key.with_suffix(".pub")), "--json"]
    assert _run(["model", "keygen", str(key), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert _run(check) == 2
    assert "is not signed" in capsys.readouterr().err
    assert _run(["model", "sign", str(model), "--key", str(key)]) == 0
    capsys.readouterr()
    assert _run(check) == 0
    assert json.loads(capsys.readouterr().out)["key"] == made["key"]
    (model / "config.json").write_text("{ }")
    assert _run(check) == 2
    assert "changed: config.json" in capsys.readouterr().err
    assert _run(["model", "sign", str(model), "--key", str(key)]) == 2  # damaged since it was made
    assert "config.json" in capsys.readouterr().err
    with pytest.raises(ArtefactError, match="no directory"):
        Trusted.of([key.with_suffix(".pub")]).check(tmp_path / "nowhere")  # type: ignore[union-attr]


def test_what_was_refused_is_read_again_only_once_its_files_change(
    model: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    hashed = signing.sha256_file
    monkeypatch.setattr(signing, "sha256_file", lambda path: read.append(path) or hashed(path))
    checks, weights = trusted(keys, "maker"), model / "model.safetensors"

    def refuses() -> bool:
        """Whether it is refused, and read for that."""
        read.clear()
        with pytest.raises(SignatureError, match=r"changed: model\.safetensors"):
            checks.check(model)
        return bool(read)

    def age() -> None:
        for path in model.rglob("*"):
            os.utime(path, (1, 1))

    weights.write_text("Weights")
    assert refuses()
    assert refuses()  # written just now: its time would not tell another change apart
    age()
    assert refuses()
    assert not refuses()
    weights.write_text("wEights")
    assert refuses()
    age()
    weights.write_text("weights")
    os.utime(weights, (2, 2))
    assert checks.check(model).files == len(FILES)
    read.clear()
    assert checks.check(model).files == len(FILES)
    assert read  # what is to be loaded is read each time


def test_another_file_in_the_place_of_one_is_seen_by_its_inode(
    model: Path, keys: Path, tmp_path: Path
) -> None:
    checks, weights = trusted(keys, "maker"), model / "model.safetensors"
    weights.write_text("Weights")
    (tmp_path / "good").write_text("weights")
    for path in [*model.rglob("*"), tmp_path / "good"]:
        os.utime(path, (1, 1))
    with pytest.raises(SignatureError):
        checks.check(model)
    (tmp_path / "good").replace(weights)
    assert checks.check(model)
