"""docs/attaching.md runs, block after block, as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest

import strata_sae as strata
from strata_sae.pipeline.config import RunConfig
from support.attaching import n_hooks
from support.small_run import TOPK, run_data
from support.small_store import build_store
from support.tiny_models import D_MODEL, save_tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "attaching.md").read_text(encoding="utf-8")
SITE = "blocks.1.hook_resid_post"


def test_the_blocks_run_and_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_model(Path("model"), "llama")
    build_store(Path("data/demo"), 4000, {SITE: D_MODEL})
    data = run_data(Path("data/demo"), {"topk": TOPK}, "demo")
    data["store"]["sites"] = [SITE]
    strata.train(RunConfig.model_validate(data), show_progress=False)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
        assert n_hooks(names["model"]) == 0
    n_tokens = names["inputs"]["input_ids"].shape[1]
    assert names["codes_BSE"].shape == (1, n_tokens, 64)
    assert len(names["text_S"]) == n_tokens + 5
    assert (names["logits"] != names["without"]).any()
    assert names["of_values"].shape == names["values"].shape
    assert float(names["effect"]) != 0.0
