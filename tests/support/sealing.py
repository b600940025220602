"""Changing records of a run folder on purpose, with the hashes made anew: what is tested then is not the hash."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from strata_sae.pipeline.runs.migration import ADDED_KEYS, RENAMED_KEYS, REWORDED, SECTIONS
from strata_sae.pipeline.runs.record_files import fingerprint, json_text


def load(path: Path) -> Any:
    """A record without its own hash."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(record, dict):
        record.pop("self_sha256", None)
    return record


def write(path: Path, record: dict[str, Any]) -> None:
    """A record as data, with its own hash: what no model would let pass, too."""
    path.write_text(json_text(record | {"self_sha256": fingerprint(record)}), encoding="utf-8")


def edit(path: Path, change: dict[str, Any] | Callable[[Any], Any]) -> None:
    """Change a record, and make its own hash anew."""
    record = load(path)
    write(path, record | change if isinstance(change, dict) else change(record) or record)


def unhash(path: Path) -> None:
    """Leave a record as versions before the hash wrote it."""
    path.write_text(json.dumps(load(path)), encoding="utf-8")


def age(folder: Path) -> None:
    """Leave the records of an SAE as version 1 wrote them: its keys and no number, hashed by its rules."""
    for kind in ("config.json", "training.json", "metrics.json", "examples.json"):
        if (path := folder / kind).exists():
            record = load(path)
            del record["version"]
            _age(record, kind)
            if kind == "metrics.json":
                texts = {new: old for old, new in REWORDED[1]["definitions"].items()}
                record["definitions"] = {name: texts.get(text, text) for name, text in record["definitions"].items()}
            write(path, record)
    lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["version"]
        _age(line, "curves.jsonl")
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    (folder / "curves.jsonl").write_text(text, encoding="utf-8")
    seal(folder)


def _age(record: dict[str, Any], kind: str) -> None:
    for where, section in SECTIONS.get(kind, {"": kind}).items():
        for group in _groups(record, [key for key in where.split(".") if key]):
            own = f"{section} {group.get('architecture', group.get('term'))}"
            for old, new in RENAMED_KEYS[1].get(section, {}).items():
                group[old] = group.pop(new)
            for key, absent in (ADDED_KEYS[1].get(section, {}) | ADDED_KEYS[1].get(own, {})).items():
                if key in group and group[key] == absent:
                    del group[key]


def _groups(group: dict[str, Any], path: list[str]) -> Iterator[dict[str, Any]]:
    """The groups of a record at a path of SECTIONS."""
    if not path:
        yield group
        return
    for key in list(group) if path[0] == "*" else path[:1]:
        if isinstance(inner := group.get(key), dict):
            yield from _groups(inner, path[1:])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(folder: Path) -> None:
    """Make every hash of an SAE's folder anew from what now lies there, in the order in which they were written."""
    config = load(folder / "config.json")
    config["fingerprint"] = fingerprint({key: value for key, value in config.items() if key != "fingerprint"})
    write(folder / "config.json", config)
    training = load(folder / "training.json") | {"fingerprint": config["fingerprint"]}
    training["sha256"] |= {"weights": sha256(folder / "weights.safetensors"), "curves": sha256(folder / "curves.jsonl")}
    write(folder / "training.json", training)
    if (folder / "metrics.json").exists():
        metrics = load(folder / "metrics.json")
        metrics |= {"sae": config["fingerprint"], "weights_sha256": training["sha256"]["weights"]}
        edit(folder / "examples.json", {"fingerprint": metrics["fingerprint"]})
        metrics["sha256"] = {
            "features": sha256(folder / "features.safetensors"),
            "examples": sha256(folder / "examples.json"),
        }
        write(folder / "metrics.json", metrics)
