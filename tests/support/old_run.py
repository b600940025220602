"""A run and its store as commit e543e8a made them (tests/data/old_run.tar.xz): to unpack, to work on, to compare.

The archive holds model/, text/, old.yaml (the config in the words of that commit), what it made of them (store/ and
runs/old/, without report.html, of which most is plotly), and machine.json: where that was, as `golden.machine` says it.
To make store/ and runs/ again: unpack, delete the two, and in that folder, with a worktree of e543e8a,

    OMP_NUM_THREADS=1 python WORKTREE/run_pipeline.py run old.yaml

15 SAEs at two sites and between them: every way of selecting latents, dead latents, resampling, two that diverge.
"""

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from strata_sae.pipeline.runs.migration import REWORDED

DATA = Path(__file__).parents[1] / "data"
CONFIG = "today.yaml"
RUN, STORE = Path("runs/old"), Path("store")
N_SAES = 15
DIVERGED = "wild"
ELSEWHERE = 1e-5
"""Relative difference of a score on another machine than the recorded one. Measured: none with 2 or 7 threads or with
AVX2 kernels, 6e-7 with products of matrices that no processor is too old for."""


def unpack(folder: Path) -> Path:
    """Put the project into a folder, with today's config (tests/data/old_run.yaml) as `CONFIG`."""
    with tarfile.open(DATA / "old_run.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    shutil.copy(DATA / "old_run.yaml", folder / CONFIG)
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Path of every file -> its bytes, and when it was written."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def scores(run: Path) -> dict[str, Any]:
    """`<variant>@<site>/<key of metrics.json>` -> value, but for what says whose scores they are."""
    found = {}
    for path in sorted(run.glob("variants/*/metrics.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in ("fingerprint", "sae", "self_sha256", "sha256", "store_id", "weights_sha256"):
            record.pop(key, None)
        found |= dict(_leaves(record, path.parent.name))
    return found


def different(old: dict[str, Any], new: dict[str, Any], *, exact: bool) -> list[str]:
    """What of `old` is absent from `new` or has another value there."""
    return [f"{key}: {value} -> {new.get(key)}" for key, value in old.items() if not _same(value, new.get(key), exact)]


def _same(old: Any, new: Any, exact: bool) -> bool:
    if isinstance(old, str):  # a definition may be in other words by now
        return bool(new == REWORDED[1]["definitions"].get(old, old))
    if exact or not (isinstance(old, float) and isinstance(new, float)):
        return type(old) is type(new) and bool(old == new)
    return abs(old - new) <= ELSEWHERE * max(abs(old), 1e-3)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict | list):
        yield key, value
        return
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(part, f"{key}/{name}")
