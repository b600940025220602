"""Many starters of one extraction: the corpus is tokenised once, int8 is calibrated once, and all of them go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.extractor.extract import extract
from strata_sae.stores import verify
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.plan import TIMINGS
from support.extraction import extraction_config

pytestmark = pytest.mark.engines
SUPPORT = Path(__file__).parents[1] / "support"


def contents(store: Path) -> dict[str, str]:
    """Hash of every file of a store but the timings."""
    files = (file for file in sorted(store.rglob("*")) if file.is_file() and TIMINGS not in file.parts)
    return {str(file.relative_to(store)): file_sha256(file) for file in files}


def start(folder: Path, n: int, *mode: str) -> dict[str, int]:
    """What so many starters did in all."""
    command = [sys.executable, str(SUPPORT / "starters.py"), str(folder), str(n), *mode]
    paths = os.pathsep.join([str(SUPPORT.parent), str(SUPPORT.parents[1])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stderr)
    return {str(key): int(value) for key, value in json.loads(done.stdout.splitlines()[-1]).items()}


def undisturbed(folder: Path) -> dict[str, str]:
    """The store of one extraction, left alone."""
    torch.set_num_threads(1)  # equal bytes are promised for an equal thread count
    extract(extraction_config(folder, store={"path": str(folder / "alone"), "encoding": "int8"}), show_progress=False)
    return contents(folder / "alone")


def test_eight_starters_plan_once_and_calibrate_once(tmp_path: Path) -> None:
    assert start(tmp_path, 8) == {"tokenised": 1, "calibrated": 1, "killed": 0, "failed": 0}
    assert contents(tmp_path / "together") == undisturbed(tmp_path)
    assert verify(tmp_path / "together", deep=True) == []
    assert not list(tmp_path.glob(".*")), "claims and drafts are gone"


def test_another_starter_plans_where_the_planner_dies(tmp_path: Path) -> None:
    assert start(tmp_path, 4, "killed") == {"tokenised": 2, "calibrated": 1, "killed": 1, "failed": 1}
    assert contents(tmp_path / "together") == undisturbed(tmp_path)
    assert not list(tmp_path.glob(".*")), "what the dead planner had made is gone, too"


def test_without_claims_each_starter_plans(tmp_path: Path) -> None:
    """The negative control: what is counted is what the claims prevent."""
    seen = start(tmp_path, 3, "careless")
    assert seen["tokenised"] > 1
