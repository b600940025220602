import json
import os
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.environment import Environment, environment
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.migration import ADDED_KEYS, VERSION
from strata_sae.pipeline.runs.record_files import (
    changed_keys,
    fingerprint,
    json_text,
    line_of,
    read_lines,
    read_record,
    read_whole_lines,
    read_yaml,
    write_record,
    write_yaml,
)
from strata_sae.pipeline.runs.records import CurveLine, Ending, SAERecord, State
from strata_sae.pipeline.strict_yaml import parse
from strata_sae.stores.files.filesystem import FileSystem, publish_folder, remove_folder, remove_staged, write_bytes
from strata_sae.stores.files.hashing import file_sha256
from support.made_up_records import curve_line, sae_record
from support.sealing import write


def test_json_text_is_one_spelling():
    assert json_text({"b": 1, "a": [0.1]}) == '{\n  "a": [\n    0.1\n  ],\n  "b": 1\n}\n'
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_text_refuses_what_json_cannot_spell(value):
    with pytest.raises(ValueError, match="JSON"):
        json_text({"a": value})


RECORD = sae_record("topk", "site", {"architecture": "topk", "d_sae": 4, "scale": 0.1 + 0.2, "k": "\ud800 é"}, d_out=2)


def test_a_record_is_read_as_it_was_written(tmp_path: Path):
    path = tmp_path / "deep" / "config.json"
    write_record(path, RECORD)
    assert read_record(path, SAERecord) == (RECORD, True)
    assert json.loads(path.read_text(encoding="utf-8"))["version"] == VERSION


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
    path = tmp_path / "state.json"
    state = State(step=3, curves_bytes=8306, curves_sha256=None, config=RECORD, sha256="")
    write_record(path, state)
    changed = path.read_text(encoding="utf-8").replace("8306", "8906")
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"state\.json: its self_sha256 is not that of its content"):
        read_record(path, State)
    old = {key: value for key, value in json.loads(changed).items() if key != "self_sha256"}
    path.write_text(json.dumps(old), encoding="utf-8")
    record, is_hashed = read_record(path, State)
    assert (record.curves_bytes, is_hashed) == (8906, False)  # control: without a hash the change is not seen


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"extra": 1}, "extra: is no key of this file"),
        ({"store_id": None}, "store_id: Input should be a valid string"),
        ({"d_out": 2.5}, "d_out: Input should be a valid integer"),
        ({"reads": [{"site": "a", "width": 4}]}, r"reads\.0\.scale: is missing"),
        ({"version": 99}, "version: is '99', and this program reads 1 to"),
        ({"version": "2"}, "version: is '2', and this program reads 1 to"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, change: dict[str, Any], says: str):
    path = tmp_path / "config.json"
    write(path, RECORD.model_dump(mode="json") | change)
    with pytest.raises(CheckpointError, match=rf"config\.json: {says}"):
        read_record(path, SAERecord)


@pytest.mark.parametrize("key", [name for name, field in SAERecord.model_fields.items() if field.is_required()])
def test_a_missing_key_is_named_with_its_file(tmp_path: Path, key: str):
    path = tmp_path / "config.json"
    write(path, RECORD.model_dump(mode="json", exclude={key}))
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}: is missing; delete its folder"):
        read_record(path, SAERecord)


def of_version_1() -> dict[str, Any]:
    """The record as commit e543e8a wrote that of an SAE: without what an SAE has not, and with its words."""
    data = RECORD.model_dump(
        mode="json", exclude={"version", "fingerprint", "d_in", "reads", "writes", "store_ids", "parent"}
    )
    data["d_model"] = data.pop("d_out")
    data["training"]["dead_after_tokens"] = 7
    return data | {"fingerprint": fingerprint(data)}


def test_a_record_of_version_1_is_read_in_todays_words_and_hashed_in_its_own(tmp_path: Path):
    path, old = tmp_path / "config.json", of_version_1()
    write(path, old)
    record, is_hashed = read_record(path, SAERecord)
    assert is_hashed
    assert record.fingerprint == old["fingerprint"] != RECORD.fingerprint
    added = {key: value for key, value in ADDED_KEYS[1]["training"].items() if key != "input_scale"}
    assert record.training.further() == {"dead_after_rows": 7, **added}
    assert (record.d_out, record.d_in, record.reads) == (2, None, [])
    write(path, old | {"seed": 1})
    with pytest.raises(CheckpointError, match=r"config\.json: fingerprint: is not that of the rest"):
        read_record(path, SAERecord)


def test_lines_of_two_versions_stand_in_one_file(tmp_path: Path):
    path, new = tmp_path / "curves.jsonl", curve_line(50, **{"loss/l1": 0.25})
    old = new.model_dump(mode="json", exclude={"version", "rows"}) | {"tokens": 64, "step": 25}
    path.write_bytes(json.dumps(old).encode() + b"\n" + line_of(new))
    first, second = read_lines(path, CurveLine)
    assert (first.step, first.rows, first.value("loss/l1"), first.value("loss/l2")) == (25, 64, 0.25, None)
    assert second == new


def test_a_torn_line_is_refused_in_curves_and_left_out_of_a_log(tmp_path: Path):
    path, line = tmp_path / "curves.jsonl", curve_line(25)
    path.write_bytes(line_of(line) + b'{"step": ')
    with pytest.raises(CheckpointError, match=r"curves\.jsonl:2: not readable as JSON"):
        read_lines(path, CurveLine)
    assert read_whole_lines(path, CurveLine) == [line]


def test_what_json_cannot_spell_is_null_in_a_line():
    line = curve_line(1, loss=float("nan"), gradient_norm=float("inf"), **{"loss/l1": float("-inf")})
    assert (line.loss, line.gradient_norm, line.value("loss/l1")) == (None, None, None)


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
        read_record(tmp_path / "gone.json", Environment)


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
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *paths: (steps.append("rename"), rename(*paths)))
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

    def killed(files: FileSystem, path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("strata_sae.stores.files.filesystem.remove_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert list(tmp_path.iterdir())
    remove_staged(tmp_path)
    assert not list(tmp_path.iterdir())


def test_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_environment_is_plain_and_impersonal():
    record = environment(device="cpu", torch_threads=2)
    text = record.model_dump_json()
    assert record.packages["torch"]
    assert record.torch_threads == 2
    assert str(Path.home()) not in text
    assert os.environ.get("USER", "no user") not in record.platform


def test_run_folder_lists_what_is_trained(tmp_path: Path):
    run = RunFolder(tmp_path)
    done, begun = run.variant("a@blocks.1.hook_resid_post"), run.variant("b@blocks.1.hook_resid_post")
    for path in (done.training, begun.config):
        path.parent.mkdir(parents=True)
        path.touch()
    assert run.trained() == [done]
    assert (done.variant, done.site) == ("a", "blocks.1.hook_resid_post")


def _kind(descriptor: int) -> str:
    return "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"
