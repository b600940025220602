"""The held-out curve, early stopping, and the weights of shares of the run: nothing of them disturbs training."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import strata_sae as strata
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.best import Best
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import open_store
from support.small_run import ALL, RELU, SITE, TOPK
from support.trained_run import RUN, curves, folder_of, hashes, train_until, weights

HELDOUT = {"every_steps": 5, "max_rows": 300}
STOPPING = {
    "heldout": {"every_steps": 8, "max_rows": 300, "patience": 2},
    "learning_rate": 0.3,
    "warmup_steps": 0,
    "decay_start": 1.0,
}
"""So large a rate that held-out losses rise again soon."""


def ending(name: str, run: Path = RUN) -> dict[str, Any]:
    return json.loads((RunFolder(run).variant(f"{name}@{SITE}").training).read_text())


def test_measuring_changes_no_bit_of_training(make_config, uninterrupted):
    train(make_config(ALL, heldout=HELDOUT), show_progress=False)
    for name, found in hashes().items():
        assert (found["weights"], found["state"]) == (uninterrupted[name]["weights"], uninterrupted[name]["state"])
        assert ["heldout/loss" in line for line in curves(name)[:2]] == [False, True]


def test_control_a_measure_that_forgets_to_put_back_is_seen(make_config, uninterrupted, monkeypatch):
    from strata_sae.pipeline.objective import Objective

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "load_state", lambda self, state: None)
        train(make_config({"batch": ALL["batch"]}, heldout=HELDOUT), show_progress=False)
    assert hashes()["batch"]["state"] != uninterrupted["batch"]["state"]


def test_the_curve_is_the_loss_r2_and_l0_of_the_held_out_rows(make_config, store):
    """ReLU with an L1, by numpy in float64 from the kept weights of that step and the store's rows."""
    train(make_config({"relu": RELU}, heldout=HELDOUT, keep=[0.25, 1.0]), show_progress=False)
    opened = open_store(store)
    start, stop = opened.plan.splits["heldout"]
    rows = np.concatenate([part for part, _ in rows_of(opened, start, stop)])[:300].astype(np.float64)
    scale = json.loads(folder_of("relu").config.read_text())["input_scale"]
    for step, line in ((15, curves("relu")[3]), (60, curves("relu")[-1])):
        kept = safetensors.torch.load_file(folder_of("relu").kept(step).weights)
        W_enc, W_dec, b_enc, b_dec = (kept[n].double().numpy() for n in ("W_enc", "W_dec", "b_enc", "b_dec"))
        codes = np.maximum((rows - b_dec) @ W_enc.T + b_enc, 0.0)
        error = rows - (codes @ W_dec + b_dec)
        l1 = 0.05 * np.abs(codes).sum(1).mean() * scale
        assert line["step"] == step
        assert line["heldout/loss"] == pytest.approx((error**2).sum(1).mean() * scale**2 + l1, rel=1e-4)
        spread = ((rows - rows.mean(0)) ** 2).sum()
        assert line["heldout/r2"] == pytest.approx(1 - (error**2).sum() / spread, rel=1e-4)
        assert line["heldout/l0"] == pytest.approx((codes > 0).sum() / len(rows), abs=0.02)
        assert line["heldout/loss"] != pytest.approx(line["loss"], rel=1e-4), "control: the batch has another loss"


def rows_of(opened: Any, start: int, stop: int) -> Any:
    from strata_sae.stores import Filters, joined_in_order

    return (
        (parts[0], numbers)
        for parts, numbers in joined_in_order([(opened, SITE)], "heldout", Filters(drop_bos=True), 64)
    )


def test_patience_by_hand():
    weight = torch.zeros(2)
    best = Best(2, {"w": weight})
    given = [3.0, 2.0, 2.0, float("nan"), 1.0]
    stops = []
    for number, loss in enumerate(given, start=1):
        weight.fill_(number)
        if not best.gave_up:
            best.measured(loss, number)
        stops.append(best.gave_up)
    assert stops == [False, False, False, True, True]
    assert best.step == 2
    best.restore()
    assert weight.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(("loss", "step"), [(0.1, 1), (0.3, 2**24 + 1)])
def test_an_equal_loss_is_no_lower_one_and_any_step_is_kept(loss, step):
    """In float32 0.1 is stored as more than it is, 0.3 too, and 2^24 + 1 as 2^24."""
    best = Best(1, {"w": torch.zeros(1)})
    best.measured(loss, step)
    assert (best.step, best.gave_up) == (step, False)
    best.measured(loss, step + 1)
    assert (best.step, best.gave_up) == (step, True)


def test_without_a_finite_loss_the_last_weights_are_kept_and_it_is_said():
    weight = torch.ones(1)
    best = Best(1, {"w": weight})
    weight.fill_(2.0)
    best.measured(float("nan"), 8)
    best.restore()
    assert (best.gave_up, best.step, weight.item()) == (True, None, 2.0)
    assert best.reason() == "no held-out loss was finite in 1 measurements"


def test_a_variant_that_diverges_keeps_its_best_weights_too(make_config, monkeypatch):
    """Its 30th loss is no number; the losses of steps 8, 16 and 24 were measured before."""
    from strata_sae.pipeline.trainer import trainee

    settings = {"heldout": {"every_steps": 8, "max_rows": 300, "patience": 9}}
    shares = [step / 60 for step in (8, 16, 24)]
    train(make_config({"topk": TOPK}, "plain", keep=shares), show_progress=False)
    losses = iter([*[None] * 29, "loss is nan"])
    monkeypatch.setattr(trainee, "_why_diverged", lambda loss, norm: next(losses))
    train(make_config({"topk": TOPK}, **settings), show_progress=False)
    found = ending("topk")
    best = min((line["heldout/loss"], line["step"]) for line in curves("topk") if "heldout/loss" in line)[1]
    assert (found["status"], found["diverged_at_step"], found["best_step"]) == ("diverged", 29, best)
    plain = RunFolder(Path("runs/plain")).variant(f"topk@{SITE}")
    assert torch.equal(weights("topk")["W_dec"], safetensors.torch.load_file(plain.kept(best).weights)["W_dec"])
    others = [safetensors.torch.load_file(plain.kept(step).weights)["W_dec"] for step in (8, 16, 24) if step != best]
    assert not any(torch.equal(weights("topk")["W_dec"], other) for other in others), "control"


def test_kept_weights_hold_what_terms_remember_at_their_own_step(make_config):
    """Whether or not the variant may stop early: the mean ratio of children, which moves at each step."""
    sae = {"architecture": "two_child_topk", "d_sae": 48, "k": 3}
    variants = {"two": {"sae": sae, "objective": {"reconstruction": {}, "two_child_cosine": {"weight": 0.01}}}}
    stopping = {"heldout": {"every_steps": 20, "max_rows": 300, "patience": 9}}
    train(make_config(variants, "plain", keep=[0.1, 0.5]), show_progress=False)
    train(make_config(variants, keep=[0.1, 0.5], **stopping), show_progress=False)
    plain, found = (RunFolder(Path("runs") / name).variant(f"two@{SITE}") for name in ("plain", "run"))
    ratios = []
    for step in (6, 30):
        ours, expected = (safetensors.torch.load_file(folder.kept(step).weights) for folder in (found, plain))
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[name], expected[name]) for name in ours)
        ratios.append(ours["child_parent_ratio"])
    assert not torch.equal(*ratios), "control: it moves"


def test_a_variant_that_stops_keeps_its_best_weights_and_the_others_go_on(make_config):
    """The same weights as the undisturbed run had at that step; the others' bits are those without it."""
    variants = {"topk": {**TOPK, "training": {"learning_rate": 1e-3}}, "wild": TOPK}
    train(make_config(variants, **STOPPING), show_progress=False)
    losses = [(line["step"], line["heldout/loss"]) for line in curves("wild") if "heldout/loss" in line]
    stopped, best = ending("wild")["stopped_at_step"], ending("wild")["best_step"]
    assert best == min(losses, key=lambda pair: pair[1])[0]
    assert stopped == best + 16 < 60
    assert ending("wild")["n_steps"] == stopped == losses[-1][0]
    assert f"of step {best} in 2 measurements" in ending("wild")["reason"]
    assert (ending("topk")["stopped_at_step"], ending("topk")["n_steps"]) == (None, 60)
    share = best / 60
    plain = {**STOPPING, "heldout": None, "keep": [share]}
    train(make_config(variants, "plain", **plain), show_progress=False)
    undisturbed = RunFolder(Path("runs/plain")).variant(f"wild@{SITE}").kept(best)
    expected = safetensors.torch.load_file(undisturbed.weights)
    for name in ("W_dec", "W_enc", "b_enc", "b_dec"):
        assert torch.equal(weights("wild")[name], expected[name])
    last = RunFolder(Path("runs/plain")).variant(f"wild@{SITE}").weights
    assert not torch.equal(weights("wild")["W_dec"], safetensors.torch.load_file(last)["W_dec"]), "control"
    assert hashes()["topk"]["weights"] == alone(make_config, "topk", variants)


def alone(make_config: Any, name: str, variants: dict[str, Any]) -> str:
    train(make_config({name: variants[name]}, "alone", **STOPPING), show_progress=False)
    return hashes(Path("runs/alone"))[name]["weights"]


def test_when_all_have_stopped_no_batch_is_read_and_no_update_made(make_config, monkeypatch):
    from strata_sae.pipeline.reading.feed import Feed
    from strata_sae.pipeline.trainer.trainee import Trainee

    calls: dict[str, int] = {"batch": 0, "update": 0}
    for owner, name in ((Feed, "batch"), (Trainee, "update")):
        real = getattr(owner, name)

        def counting(*arguments: Any, real: Any = real, name: str = name, **named: Any) -> Any:
            calls[name] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, counting)
    train(make_config({"wild": TOPK}, **STOPPING), show_progress=False)
    assert calls["update"] == ending("wild")["stopped_at_step"] < 60
    assert calls["batch"] <= calls["update"] + 1  # and the first, for b_dec
    scores = strata.evaluate(make_config({"wild": TOPK}, **STOPPING), show_progress=False)
    assert scores.keys() == {f"wild@{SITE}"}, "it is a finished SAE"


@pytest.mark.parametrize("save", [1, 3, 5, 8])
@pytest.mark.parametrize("before", [True, False])
def test_a_stop_anywhere_changes_nothing(make_config, monkeypatch, save, before):
    variants = {"topk": {**TOPK, "training": {"learning_rate": 1e-3}}, "wild": TOPK}
    settings = {**STOPPING, "keep": [0, 0.1, 0.5, 1.0]}
    train(make_config(variants, "other", **settings), show_progress=False)
    train_until(make_config(variants, **settings), monkeypatch, save, before=before)
    train(make_config(variants, **settings), show_progress=False)
    for name in variants:
        assert ending(name) == ending(name, Path("runs/other"))
    assert len(ending("topk")["kept"]) == 4


def test_kept_weights_are_those_of_runs_that_end_there_and_can_be_loaded(make_config, uninterrupted):
    """Constant rates, so that a shorter run is the beginning of a longer one."""
    settings = {"warmup_steps": 0, "decay_start": 1.0}
    shares = [0, 0.001, 0.1, 0.316, 0.5]
    train(make_config({"topk": TOPK}, keep=shares, **settings), show_progress=False)
    folder = folder_of("topk")
    assert [part["step"] for part in ending("topk")["kept"]] == [0, 6, 18, 30]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [f"kept_{n:08d}" for n in (0, 6, 18, 30)]
    for part in ending("topk")["kept"]:
        path = folder.kept(part["step"])
        assert sorted(file.name for file in path.path.iterdir()) == ["training.json", "weights.safetensors"]
        sae = strata.load(path.path)
        assert (sae.training.status, sae.training.n_steps) == ("kept", part["step"])
        assert sae.provenance.weights_sha256 == part["sha256"]
        assert sae.encode(torch.randn(3, 16)).to_dense().shape == (3, 64)
        if part["step"]:
            short = {**settings, "n_steps": part["step"]}
            name = f"short{part['step']}"
            train(make_config({"topk": TOPK}, name, **short), show_progress=False)
            expected = strata.load(Path("runs") / name / f"topk@{SITE}").sae
            assert torch.equal(sae.sae.W_dec, expected.W_dec)
            assert torch.equal(sae.sae.b_enc, expected.b_enc)
    assert not torch.equal(strata.load(folder.kept(6).path).sae.W_dec, strata.load(folder.path).sae.W_dec), "control"
    assert folder.kept(6).weights.stat().st_size < 1.1 * folder.weights.stat().st_size, "no optimiser's memory"
    evaluate(make_config({"topk": TOPK}, keep=shares, **settings), show_progress=False)
    train(make_config({"topk": TOPK}, keep=shares, **settings), show_progress=False)  # is found to be done
    assert folder.kept(18).weights.exists()
    damaged = folder.kept(18).weights
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="kept_00000018"):
        strata.load(damaged.parent)


def test_a_store_without_held_out_rows_is_refused_before_the_first_step(make_config, monkeypatch):
    from strata_sae.pipeline.reading.feed import Feed

    monkeypatch.setattr(Feed, "heldout", lambda *_: iter(()))
    with pytest.raises(ConfigError, match=r"training\.heldout: the held-out split of .* has no rows"):
        train(make_config({"topk": TOPK}, heldout=HELDOUT), show_progress=False)
    train(make_config({"topk": TOPK}), show_progress=False)  # what the error advises; no record of before is in its way


ROOT = Path(__file__).parents[2]


def test_kill_9_at_counted_steps_changes_nothing(store, tmp_path):
    """Each process is killed at a step of the file system; one is let to end, with the bits of one that never died."""
    noise, extra = random.Random(3), json.dumps({**STOPPING, "keep": [0, 0.1, 0.3]})

    def run(folder: Path, dies_at: int, extend: str = "") -> subprocess.CompletedProcess[str]:
        folder.mkdir(exist_ok=True)
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        script = str(ROOT / "tests" / "support" / "killed_training.py")
        arguments = [str(store), json.dumps({"topk": TOPK, "relu": RELU}), str(dies_at), "1", extra, extend]
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, script, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    undisturbed = run(tmp_path / "undisturbed", 0)
    assert undisturbed.returncode == 0, undisturbed.stderr
    n_steps = int(undisturbed.stdout.split()[-1])
    for _ in range(4):
        done = run(tmp_path / "killed", noise.randint(n_steps // 8, n_steps // 2))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert run(tmp_path / "killed", 0).returncode == 0
    for name in ("topk", "relu"):
        found, expected = (ending(name, tmp_path / where / "runs" / "run") for where in ("killed", "undisturbed"))
        assert found == expected
        assert len(found["kept"]) >= 2
    assert ending("topk", tmp_path / "killed" / "runs" / "run")["stopped_at_step"] is not None
    extended = run(tmp_path / "undisturbed", 0, "30")
    assert extended.returncode == 0, extended.stderr
    n_steps = int(extended.stdout.split()[-1])
    for dies_at in (n_steps // 3, n_steps // 4):
        assert run(tmp_path / "killed", dies_at, "30").returncode == -signal.SIGKILL
    assert run(tmp_path / "killed", 0, "30").returncode == 0
    found, expected = (ending("topk+30", tmp_path / where / "runs" / "run") for where in ("killed", "undisturbed"))
    assert found == expected
