"""Manifests and records from anybody: one line says what is wrong, and nothing appears."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.commands.push import folder_at
from strata_sae.pipeline.export.sending import push
from strata_sae.pipeline.export.shared import MANIFEST
from strata_sae.pipeline.runs.record_files import SELF, fingerprint, json_text
from strata_sae.stores.files.canonical import canonical_json
from support.small_run import SITE

Manifest = dict[str, Any]
WEIGHTS = "weights.safetensors"
HASH = "0" * 64
RECORD = {"bytes": 1, "sha256": HASH}


def adding(name: str, record: Any = None) -> Callable[[Manifest], Any]:
    return lambda manifest: manifest["files"].update({name: record or RECORD})


def saying(**facts: Any) -> Callable[[Manifest], Any]:
    return lambda manifest: manifest.update(facts)


def of_weights(**facts: Any) -> Callable[[Manifest], Any]:
    return lambda manifest: manifest["files"][WEIGHTS].update(facts)


MANIFESTS: dict[str, Callable[[Manifest], Any]] = {
    "leaves the folder": adding("../escaped"),
    "leaves it deep within": adding("saelens/../../../escaped"),
    "from the root": adding("/tmp/escaped"),
    "a drive": adding("C:\\escaped"),
    "a home": adding("~/escaped"),
    "a backslash": adding("saelens\\..\\escaped"),
    "an empty part": adding("saelens//cfg.json"),
    "a dot": adding("./config.json"),
    "a NUL": adding("config\0.json"),
    "a line end": adding("config.json\n"),
    "a name in another script": adding("c\N{CYRILLIC SMALL LETTER O}nfig.json"),
    "a very long name": adding("a" * 300),
    "the manifest itself": adding(MANIFEST),
    "differs in case alone": adding("Config.json"),
    "a file within a file": adding(f"{WEIGHTS}/x"),
    "a name that no SAE has": adding("run.sh"),
    "a pickle": adding("weights.pkl"),
    "checkpoints": adding("checkpoints/step_1/state.json"),
    "a file of a form that it has not": adding("saelens/code.py"),
    "another SAE's": adding(f"variants/other@{SITE}/config.json"),
    "a size beyond every disk": of_weights(bytes=2**60),
    "a size beyond this disk": of_weights(bytes=2**43),
    "a negative size": of_weights(bytes=-1),
    "a size that is text": of_weights(bytes="1"),
    "a size that is true": of_weights(bytes=True),
    "a hash that is none": of_weights(sha256="../../etc"),
    "another hash": of_weights(sha256=HASH),
    "another size": of_weights(bytes=5),
    "a key too many": of_weights(url="http://elsewhere/"),
    "no weights": lambda manifest: manifest["files"].pop(WEIGHTS),
    "no files": lambda manifest: manifest.update(files={}),
    "files in a list": lambda manifest: manifest.update(files=list(manifest["files"])),
    "too many files": lambda manifest: manifest["files"].update({f"tables/{n}.csv": RECORD for n in range(100_001)}),
    "no list of files": lambda manifest: manifest.pop("files"),
    "a name that leaves": saying(name=f"../../topk@{SITE}"),
    "a name of another": saying(name=f"relu@{SITE}"),
    "a name without a site": saying(name="topk"),
    "a name that is a number": saying(name=7),
    "another kind": saying(kind="store"),
    "a run": saying(kind="run"),
    "a newer version": saying(version=2),
    "a version that is true": saying(version=True),
    "a fact too many": saying(command="rm"),
}
BYTES: dict[str, bytes] = {
    "no JSON": b"\x80\x04\x95",
    "a list": b"[]\n",
    "deep": b"[" * 100_000,
    "not canonical": b'{ "files": {} }',
    "a key twice": b'{"files":{},"files":{}}\n',
    "NaN": b'{"files":NaN}\n',
    "empty": b"",
    "huge": b" " * (65 * 2**20),
}


@pytest.fixture(scope="module")
def honest(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pushing the SAE `topk` leaves in a folder."""
    there = tmp_path_factory.mktemp("pushed") / "there"
    push(folder_at(made / "runs/run/topk"), str(there))
    return there


@pytest.fixture
def there(honest: Path, tmp_path: Path) -> Path:
    shutil.copytree(honest, tmp_path / "server/there")
    return tmp_path / "server/there"


def pulled(there: Path) -> tuple[int, str]:
    """Exit code and what is said. Nothing may be left beside the place but what a pull goes on with."""
    root = there.parents[1]
    before = tree(root)
    result = CliRunner().invoke(app, ["--quiet", "pull", str(there), str(root / "out")])
    assert result.exception is None or isinstance(result.exception, SystemExit), "a traceback"
    new = {name for name in tree(root) - before if not name.startswith(".out-")}
    print(result.stderr)
    assert (new == set()) == (result.exit_code != 0), new
    return result.exit_code, result.stderr


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_control_the_honest_one_is_pulled(there: Path) -> None:
    manifest = json.loads((there / MANIFEST).read_bytes())
    (there / MANIFEST).write_bytes(canonical_json(manifest))  # as the edited ones are
    assert pulled(there) == (0, "")


@pytest.mark.parametrize("edit", MANIFESTS)
def test_a_hostile_manifest_is_one_line(there: Path, edit: str) -> None:
    manifest = json.loads((there / MANIFEST).read_bytes())
    MANIFESTS[edit](manifest)
    (there / MANIFEST).write_bytes(canonical_json(manifest))
    code, said = pulled(there)
    assert code == 1
    assert len(said.splitlines()) == 1, said


@pytest.mark.parametrize("data", BYTES)
def test_a_manifest_that_is_none_is_one_line(there: Path, data: str) -> None:
    (there / MANIFEST).write_bytes(BYTES[data])
    code, said = pulled(there)
    assert (code, len(said.splitlines())) == (1, 1)


def rewrite(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change a record and give it the hash that it then has, as whoever forges one does."""
    record = json.loads(path.read_bytes())
    record.pop(SELF)
    edit(record)
    if path.name == "config.json":
        record["fingerprint"] = fingerprint({key: value for key, value in record.items() if key != "fingerprint"})
    path.write_bytes(json_text(record | {SELF: fingerprint(record)}).encode())


def chained(there: Path) -> None:
    """Make training.json name the config and the weights that are there."""
    config = json.loads((there / "config.json").read_bytes())
    weights = hashlib.sha256((there / WEIGHTS).read_bytes()).hexdigest()
    rewrite(there / "training.json", lambda record: record.update(fingerprint=config["fingerprint"]))
    rewrite(there / "training.json", lambda record: record["sha256"].update(weights=weights))
    for name in ("metrics.json", "examples.json", "features.safetensors", "per_document.json"):
        (there / name).unlink()


def with_weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edited(there: Path) -> None:
        weights = safetensors.torch.load_file(there / WEIGHTS)
        edit(weights)
        (there / WEIGHTS).unlink()
        safetensors.torch.save_file(weights, there / WEIGHTS)
        chained(there)

    return edited


def with_config(**sae: Any) -> Callable[[Path], None]:
    def edited(there: Path) -> None:
        rewrite(there / "config.json", lambda record: record["sae"].update(sae))
        chained(there)

    return edited


def raw_weights(data: bytes) -> Callable[[Path], None]:
    def edited(there: Path) -> None:
        (there / WEIGHTS).write_bytes(data)
        chained(there)

    return edited


CONTENTS: dict[str, Callable[[Path], None]] = {
    "a NaN": with_weights(lambda weights: weights["W_enc"][0].fill_(float("nan"))),
    "a misshapen matrix": with_weights(lambda weights: weights.update(W_enc=torch.zeros(3, 3))),
    "a matrix is missing": with_weights(lambda weights: weights.pop("W_dec")),
    "a pickle as weights": raw_weights(b"\x80\x04cos\nsystem\n(S'touch /tmp/escaped'\ntR."),
    "a header of 2^60 bytes": raw_weights((2**60).to_bytes(8, "little") + b"{}"),
    "an architecture that nobody knows": with_config(architecture="os.system"),
    "more latents than memory": with_config(d_sae=2**40),
    "k that is text": with_config(k="__import__('os')"),
    "a key that nobody knows": lambda there: rewrite(there / "config.json", lambda record: record.update(evil=1)),
    "another SAE's name": lambda there: rewrite(there / "config.json", lambda record: record.update(variant="relu")),
    "scores of another SAE": lambda there: rewrite(there / "metrics.json", lambda record: record.update(sae=HASH)),
    "scores without a rewritten hash": lambda there: (
        (there / "metrics.json").write_text(
            (there / "metrics.json").read_text().replace('"n_rows": 163', '"n_rows": 999')
        )
        and None
    ),
    "curves of another": lambda there: (there / "curves.jsonl").write_bytes(b"{}\n") and None,
    "examples without scores": lambda there: (there / "metrics.json").unlink(),
    "diverged": lambda there: rewrite(there / "training.json", lambda record: record.update(status="diverged")),
    "an export of another width": lambda there: rewrite_export(there),
    "an export that runs code": lambda there: evil_export(there),
    "an export that is no JSON": lambda there: (there / "saelens/cfg.json").write_bytes(b"\x80\x04") and None,
}


class Evil:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


def evil_export(there: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(64, 16), "evil": Evil()}, there / "dictionary_learning/ae.pt")


def rewrite_export(there: Path) -> None:
    path = there / "saelens/sae_weights.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["W_enc"] = torch.zeros(16, 3)
    path.unlink()
    safetensors.torch.save_file(weights, path)


def listed_anew(there: Path) -> None:
    """A manifest of what is there now: every hash is right."""
    manifest = json.loads((there / MANIFEST).read_bytes())
    paths = {name: there / name for name in manifest["files"] if (there / name).exists()}
    manifest["files"] = {
        name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in paths.items()
    }
    (there / MANIFEST).write_bytes(canonical_json(manifest))


@pytest.mark.parametrize("edit", CONTENTS)
def test_files_whose_hashes_are_right_are_read_before_they_appear(there: Path, edit: str) -> None:
    for path in there.rglob("*"):
        path.chmod(0o755)
    CONTENTS[edit](there)
    listed_anew(there)
    code, said = pulled(there)
    assert code == 1
    assert len(said.splitlines()) == 1, said
    left = [path.name for path in there.parents[1].iterdir() if path.name.endswith("pulling")]
    assert left == [], "what was looked at and refused is not kept"


def test_control_the_export_runs_code_where_it_is_unpickled(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil_export(there)
    CliRunner().invoke(app, ["--quiet", "pull", str(there), "out"])
    assert not Path("unpickled").exists()
    torch.load(there / "dictionary_learning/ae.pt", weights_only=False)
    assert Path("unpickled").is_dir()


def test_control_what_is_listed_anew_and_was_not_changed_is_pulled(there: Path) -> None:
    chained(there)
    listed_anew(there)
    assert pulled(there) == (0, "")


def test_links_are_not_followed_out_of_the_place(there: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes((there / "metrics.json").read_bytes())
    (there / "metrics.json").unlink()
    (there / "metrics.json").symlink_to(tmp_path / "secret")
    code, said = pulled(there)
    assert (code, "cannot be read" in said) == (1, True)


def test_a_link_in_the_place_of_what_is_made_is_not_followed(there: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/variants").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "out/variants" / f"topk@{SITE}")
    result = CliRunner().invoke(app, ["--quiet", "pull", str(there), str(tmp_path / "out")])
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert list((tmp_path / "elsewhere").iterdir()) == []
