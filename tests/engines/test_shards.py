"""One SAE in several processes of torchrun: the cuts of one process, exactly, and any number of ranks after a kill."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.trainer.train import train
from support.side_by_side import VARIANTS, bytes_of_20_updates
from support.small_run import SITE, run_data, store_for_training

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
SAES: dict[str, Any] = {
    "topk": {
        "sae": {"architecture": "topk", "d_sae": 250, "k": 4},
        "objective": {"reconstruction": {}, "aux_k": {"k_aux": 6}},
    },
    "jump": {
        "sae": {"architecture": "jump_relu", "d_sae": 64, "bandwidth": 0.05},
        "objective": {"reconstruction": {}, "l0": {"target": 8.0}},
    },
}

pytestmark = pytest.mark.engines


def torchrun(n: int, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What so many processes of torchrun say of a command, and how they end."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*words, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("n", [2, 4])
def test_ranks_do_what_one_process_does(n: int, tmp_path: Path) -> None:
    done = torchrun(n, SUPPORT / "ranks_beside.py", tmp_path / "found.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    for name in VARIANTS:
        case = found[name]
        assert (case["differing"], case["b_dec_is_one"]) == (0, True), name
        assert case["selected"] > 1000, name
        assert case["apart"] <= 1e-5, (name, case["apart"])
        assert case["losses"] <= 1e-5, (name, case["losses"])
        if "aux_k" not in VARIANTS[name]["objective"] and name != "topk annealed":  # those send what the step asks for
            looked_twice = 2 * (n - 1) * 2048 // n if name.startswith("batch") else 0
            more = case["sent_bytes"] - bytes_of_20_updates(name, n, case["rows_again"])
            assert more in [looked_twice * times for times in range(20)], name
    for name, (differing, n_entries) in found["ties"].items():
        assert n_entries > 50_000
        assert (differing > 0) == (name == "without the rule"), name


def weights(folder: VariantFolder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder.weights)


def test_a_killed_rank_and_other_numbers_of_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, config = store_for_training(tmp_path / "store"), tmp_path / "config.yaml"
    data = run_data(store, SAES, n_steps=30, keep=[])
    config.write_text(yaml.safe_dump(data), encoding="utf-8")
    places = {name: tmp_path / name for name in ("alone", "start", "two", "one")}
    for name in ("alone", "two"):
        places[name].mkdir()
    monkeypatch.chdir(places["alone"])
    settings = RunConfig.model_validate(data | {"training": data["training"] | {"keep": [0.0]}})
    train(settings, show_progress=False)

    killed = torchrun(4, SUPPORT / "ranks_killed.py", "train", config, cwd=places["two"])
    assert killed.returncode != 0
    assert "strata_sae/pipeline" not in killed.stderr  # no traceback of ours: what ended the others is a line
    begun = RunFolder(places["two"] / "runs" / "run").variant(f"topk@{SITE}")
    (saved,) = begun.checkpoints.glob("step_*")
    assert saved.name == "step_00000010"
    assert len(list(saved.glob("state-*-of-00004.safetensors"))) == 4
    assert not begun.training.exists()
    shutil.copytree(places["two"], places["one"])

    done = torchrun(2, ROOT / "run_pipeline.py", "train", config, cwd=places["two"])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("goes on from step 10") == 2  # told once for each SAE, not by each rank
    monkeypatch.chdir(places["one"])
    train(RunConfig.model_validate(data), show_progress=False)

    for name in SAES:
        reference, *others = (
            RunFolder(places[p] / "runs" / "run").variant(f"{name}@{SITE}") for p in ("alone", "two", "one")
        )
        start = weights(reference.kept(0))
        for other in others:
            found, expected = weights(other), weights(reference)
            assert found.keys() == expected.keys()
            for key in expected.keys() & start.keys() - {"threshold"}:
                apart = (found[key] - expected[key]).norm() / (expected[key] - start[key]).norm()
                assert apart <= 1e-5, (name, key)
            assert torch.allclose(found["threshold"], expected["threshold"], rtol=1e-5)
            records = [json.loads(folder.training.read_text(encoding="utf-8")) for folder in (reference, other)]
            assert records[0]["n_steps"] == records[1]["n_steps"] == 30
            curves = [
                [json.loads(line) for line in folder.curves.read_text().splitlines()] for folder in (reference, other)
            ]
            assert [line["step"] for line in curves[0]] == [line["step"] for line in curves[1]]
            for one, own in zip(*curves, strict=True):
                assert (own["l0"], own["dead_latents"]) == (one["l0"], one["dead_latents"])
                assert own["loss"] == pytest.approx(one["loss"], rel=1e-5)
                assert own["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)

    monkeypatch.chdir(places["two"])
    evaluate(RunConfig.model_validate(data), show_progress=False)
    scores = json.loads(RunFolder(Path("runs/run")).variant(f"topk@{SITE}").metrics.read_text(encoding="utf-8"))
    assert scores
    assert (export(begun.path, "saelens", tmp_path / "exported") / "cfg.json").exists()
