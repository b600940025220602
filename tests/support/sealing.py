"""Changing records of a run folder on purpose, with the hashes made anew: what is tested then is not the hash."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strata_sae.pipeline.runs import fingerprint, write_record


def load(path: Path) -> Any:
    """A record without its own hash."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(record, dict):
        record.pop("self_sha256", None)
    return record


def edit(path: Path, change: dict[str, Any] | Callable[[Any], Any]) -> None:
    """Change a record, and make its own hash anew."""
    record = load(path)
    write_record(path, record | change if isinstance(change, dict) else change(record) or record)


def unhash(path: Path) -> None:
    """Leave a record as versions before the hash wrote it."""
    path.write_text(json.dumps(load(path)), encoding="utf-8")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(folder: Path) -> None:
    """Make every hash of an SAE's folder anew from what now lies there, in the order in which they were written."""
    config = load(folder / "config.json")
    config["fingerprint"] = fingerprint({key: value for key, value in config.items() if key != "fingerprint"})
    write_record(folder / "config.json", config)
    training = load(folder / "training.json") | {"fingerprint": config["fingerprint"]}
    training["sha256"] |= {
        "weights": sha256(folder / "weights.safetensors"),
        "curves": sha256(folder / "curves.jsonl"),
    }
    write_record(folder / "training.json", training)
    if (folder / "metrics.json").exists():
        metrics = load(folder / "metrics.json")
        metrics |= {"sae": config["fingerprint"], "weights_sha256": training["sha256"]["weights"]}
        edit(folder / "examples.json", {"fingerprint": metrics["fingerprint"]})
        metrics["sha256"] = {
            "features": sha256(folder / "features.safetensors"),
            "examples": sha256(folder / "examples.json"),
        }
        write_record(folder / "metrics.json", metrics)
