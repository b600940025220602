"""K1, W1: extractors killed at random lose, double and mix no row, and leave the very bytes of an undisturbed run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from strata_sae.stores import verify
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.plan import TIMINGS
from support.extraction import extraction_config

N_KILLS = int(os.environ.get("STRATA_EXTRACTOR_KILLS", "20"))
SUPPORT = Path(__file__).parents[1] / "support"


def contents(store: Path) -> dict[str, str]:
    """Hash of every file of a store but the timings."""
    files = (file for file in sorted(store.rglob("*")) if file.is_file() and TIMINGS not in file.parts)
    return {str(file.relative_to(store)): file_sha256(file) for file in files}


def kill(folder: Path, n_kills: int, *mode: str) -> dict[str, int]:
    """Run a campaign of kills in a process of its own."""
    command = [sys.executable, str(SUPPORT / "kill_extractors.py"), str(folder), str(n_kills), *mode]
    paths = os.pathsep.join([str(SUPPORT.parent), str(SUPPORT.parents[1])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {str(key): int(value) for key, value in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.timeout(3000)
def test_killed_extractors_leave_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    extraction_config(tmp_path)
    outcome = kill(tmp_path, N_KILLS)
    print(outcome)
    assert outcome["failures"] == 0
    assert outcome["kills"] >= N_KILLS
    reference = contents(tmp_path / "reference")
    expected = zarr.open_group(tmp_path / "reference" / "activations.zarr", mode="r")
    for number in range(outcome["stores"]):
        store = tmp_path / f"killed-{number}"
        assert contents(store) == reference
        assert verify(store, deep=True) == []
        found = zarr.open_group(store / "activations.zarr", mode="r")
        for site in ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"):
            rows = np.asarray(found[f"sites/{site}/values"])
            assert np.isfinite(rows).all(), "a row is missing: plain zarr shows fill value"
            assert (rows == np.asarray(expected[f"sites/{site}/values"])).all()


def test_a_writer_without_the_protocol_is_caught(tmp_path: Path) -> None:
    extraction_config(tmp_path)
    assert kill(tmp_path, 6, "careless")["failures"] > 0
