"""Text in, page out: the four stages on a tiny model, and stage 2 on a machine without transformers and datasets."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from strata_sae.pipeline.config.loading import dump
from support.extraction import extraction_config

ROOT = Path(__file__).parents[1]
STAGE_2 = """
import builtins, sys
sys.path.insert(0, {root!r})
OURS = ("strata_sae.pipeline.language_model", "strata_sae.pipeline.extractor")
BLOCKED = ("transformers", "datasets", "tokenizers", "huggingface_hub", "scipy", "sklearn", *OURS)

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(BLOCKED):
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Refuse())
import run_pipeline
sys.argv = ["run_pipeline.py", *{arguments!r}]
run_pipeline.main()
"""


def variants() -> dict[str, object]:
    """One of each architecture and term."""
    topk = {"architecture": "topk", "d_sae": 64, "k": 4}
    batch_topk = {"architecture": "batch_topk", "d_sae": 64, "k": 4}
    return {
        "relu": {
            "sae": {"architecture": "relu", "d_sae": 64},
            "objective": {"reconstruction": {}, "l1": {"weight": 0.05}},
        },
        "topk": {"sae": topk, "objective": {"reconstruction": {}, "aux_k": {}}},
        "matryoshka": {"sae": batch_topk, "objective": {"prefix_reconstruction": {"fractions": [0.25, 1.0]}}},
        "orthogonal": {"sae": topk, "objective": {"reconstruction": {}, "orthogonality": {"weight": 1e-3}}},
    }


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A config file of a run under the test's folder."""
    config = extraction_config(
        tmp_path,
        training={"n_steps": 20, "batch_size": 128, "warmup_steps": 5, "calibration_rows": 512, "log_every_steps": 5},
    )
    plain = yaml.safe_load(dump(config))
    plain["variants"] = json.loads(json.dumps(variants()))  # no YAML anchors
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    return path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, in `folder`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run_pipeline.py"), *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def run_without_extraction_packages(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where importing transformers, datasets or stage 1 fails."""
    script = STAGE_2.format(root=str(ROOT), arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)


def test_the_whole_pipeline_and_stage_2_without_the_model(config_file: Path) -> None:
    folder = config_file.parent
    first = run(folder, "extract", str(config_file))
    assert first.returncode == 0, first.stderr
    for stage in ("train", "evaluate", "report"):
        done = run_without_extraction_packages(folder, stage, str(config_file))
        assert done.returncode == 0, done.stderr
    refused = run_without_extraction_packages(folder, "extract", str(config_file))
    assert refused.returncode != 0, "the control: the block is real, stage 1 cannot run behind it"

    results = folder / "runs" / "small"
    with (results / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(variants()) * 2
    assert (results / "report.html").stat().st_size > 1_000_000, "plotly is inside"
    metrics = json.loads((results / "variants" / "topk@blocks.0.hook_resid_post" / "metrics.json").read_text())
    assert metrics["metrics"]["l0"]["value"] <= 4

    before = {path: path.stat().st_mtime_ns for path in results.glob("variants/*/weights.safetensors")}
    again = run(folder, "run", str(config_file))
    assert again.returncode == 0, again.stderr
    assert "finished before" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in results.glob("variants/*/weights.safetensors")}


def test_a_changed_training_config_is_refused_by_name(config_file: Path) -> None:
    folder = config_file.parent
    for stage in ("extract", "train"):
        assert run(folder, stage, str(config_file)).returncode == 0
    changed = run(folder, "train", str(config_file), "--set", "training.learning_rate=0.5")
    assert changed.returncode in (1, 2)
    assert "learning_rate" in changed.stderr
    assert "0.5" in changed.stderr


def test_training_on_an_unfinished_store_is_refused(config_file: Path) -> None:
    folder = config_file.parent
    assert run(folder, "extract", str(config_file)).returncode == 0
    (folder / "store" / "MANIFEST.json").unlink()
    refused = run(folder, "train", str(config_file))
    assert refused.returncode == 1
    assert "unfinished" in refused.stderr
    assert "Traceback" not in refused.stderr
