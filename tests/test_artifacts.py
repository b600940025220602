import json
import os
from pathlib import Path

import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs import (
    RunFolder,
    canonical_json,
    changed_keys,
    durable,
    environment,
    fingerprint,
    only_writer,
    publish_folder,
    read_record,
    read_yaml,
    remove_folder,
    remove_staged,
    sha256_of,
    write_bytes,
    write_record,
    write_yaml,
)
from strata_sae.pipeline.runs.records import Ending, Shape
from strata_sae.pipeline.strict_yaml import parse


def test_canonical_json_is_one_spelling():
    assert canonical_json({"b": 1, "a": [0.1]}) == '{\n  "a": [\n    0.1\n  ],\n  "b": 1\n}\n'
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_json_refuses_what_json_cannot_spell(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": value})


def test_json_round_trip_keeps_every_bit(tmp_path: Path):
    record = {"a": 0.1 + 0.2, "text": "\ud800 \u2028 é", "none": None}
    write_record(tmp_path / "deep" / "record.json", record)
    assert read_record(tmp_path / "deep" / "record.json", Shape) == (record, True)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b'{"a": 1} trailing', b'{"a": NaN}', b'{"a": 1e400}', b"[" * 10**5 + b"]" * 10**5],
)
def test_garbled_json_names_the_file(tmp_path: Path, content: bytes):
    path = tmp_path / "training.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"training\.json: not readable as JSON .*delete its folder"):
        read_record(path, Ending)


def test_a_record_that_was_changed_is_refused_and_one_without_a_hash_is_told_apart(tmp_path: Path):
    path = tmp_path / "record.json"
    write_record(path, {"r2": 0.306})
    changed = path.read_text(encoding="utf-8").replace("0.306", "0.906")
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"record\.json: its self_sha256 is not that of its content"):
        read_record(path, Shape)
    old = {key: value for key, value in json.loads(changed).items() if key != "self_sha256"}
    path.write_text(json.dumps(old), encoding="utf-8")
    assert read_record(path, Shape) == ({"r2": 0.906}, False)  # control: without a hash the change is not seen


def test_yaml_carries_its_hash_in_a_comment(tmp_path: Path):
    path = tmp_path / "config.yaml"
    write_yaml(path, "no: 1\n")
    assert read_yaml(path) == ("no: 1\n", True)
    assert parse(path.read_text(encoding="utf-8"), "x")[0] == {"no": 1}
    path.write_text(path.read_text(encoding="utf-8").replace("no: 1", "no: 2"), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.yaml: its self_sha256"):
        read_yaml(path)
    path.write_text("no: 2\n", encoding="utf-8")
    assert read_yaml(path) == ("no: 2\n", False)


def test_missing_json_names_the_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"gone\.json: cannot be read"):
        read_record(tmp_path / "gone.json", Shape)


def test_changed_keys_name_paths_and_both_values():
    old = {"training": {"n_steps": 10, "lr": 0.1}, "same": 1, "gone": 2}
    new = {"training": {"n_steps": 20, "lr": 0.1}, "same": 1, "new": None}
    assert changed_keys(old, new) == [
        "gone: was 2, is absent",
        "new: was absent, is null",
        "training.n_steps: was 10, is 20",
    ]
    assert changed_keys(new, new) == []


def test_write_replaces_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_write_flushes_the_file_before_its_name_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append(_kind(descriptor)))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("rename"), replace(*paths)))
    write_bytes(tmp_path / "file", b"x")
    assert steps == ["file", "rename", "folder"]


def test_publish_flushes_everything_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    staged, target = tmp_path / ".staged-a", tmp_path / "a"
    staged.mkdir()
    (staged / "x").write_bytes(b"x")
    steps = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append(_kind(descriptor)))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *paths: (steps.append("rename"), rename(*paths)))
    publish_folder(staged, target)
    assert steps == ["file", "folder", "rename", "folder"]
    assert (target / "x").read_bytes() == b"x"


def test_removal_never_leaves_half_a_folder_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert list(tmp_path.iterdir())
    remove_staged(tmp_path)
    assert not list(tmp_path.iterdir())


def test_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_environment_is_plain_and_impersonal():
    record = environment(device="cpu", torch_threads=2)
    text = json.dumps(record)
    assert record["packages"]["torch"]
    assert record["torch_threads"] == 2
    assert str(Path.home()) not in text
    assert os.environ.get("USER", "no user") not in record["platform"]


def test_run_folder_lists_what_is_trained(tmp_path: Path):
    run = RunFolder(tmp_path)
    done, begun = run.variant("a@blocks.1.hook_resid_post"), run.variant("b@blocks.1.hook_resid_post")
    write_record(done.training, {})
    write_record(begun.config, {})
    assert run.trained() == [done]
    assert (done.variant, done.site) == ("a", "blocks.1.hook_resid_post")


def _kind(descriptor: int) -> str:
    return "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"


def test_a_run_folder_has_one_writer_at_a_time(tmp_path):
    refused = pytest.raises(CheckpointError, match="another process is writing this run")
    with only_writer(tmp_path / "run"), refused, only_writer(tmp_path / "run"):
        pass
    with only_writer(tmp_path / "run"):
        pass
