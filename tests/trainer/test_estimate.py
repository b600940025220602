"""The time that training takes: the sum is checked with made-up rates, and the measuring only for being real work."""

from pathlib import Path
from typing import Any

import pytest
import torch

from strata_sae.pipeline.progress import duration
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer import estimate
from strata_sae.pipeline.trainer.estimate import PassRate, estimate_lines, measured_rates, seconds_left, steps_done
from strata_sae.pipeline.trainer.jobs import plan_jobs
from strata_sae.pipeline.trainer.passes import Pass, plan_passes
from strata_sae.pipeline.trainer.train import describe_training
from strata_sae.pipeline.trainer.trainee import Trainee
from support.small_run import ALL, RELU, SITE, TOPK

CPU = torch.device("cpu")


def passes_of(config: Any) -> list[Pass]:
    stores = open_store(config)
    return plan_passes(
        plan_jobs(config, stores, RunFolder(config.run_path())), stores, config.training.memory_bytes, CPU
    )


@pytest.mark.parametrize(
    ("per_update", "per_batch", "done", "wanted"),
    [
        ({"topk": 0.25, "relu": 0.5}, 0.0, {}, 60 * 0.75),
        ({"topk": 0.25, "relu": 0.5}, 0.5, {}, 60 * 0.75),  # reading goes on meanwhile
        ({"topk": 0.25, "relu": 0.5}, 2.0, {}, 60 * 2.0),  # reading takes longer
        ({"topk": 0.25, "relu": 0.5}, 0.0, {"topk": 20}, 40 * 0.25 + 60 * 0.5),
        ({"topk": 0.25, "relu": 0.5}, 2.0, {"topk": 20, "relu": 50}, 40 * 2.0),  # batches are read for who lags most
        ({"topk": 0.25, "relu": 0.5}, 2.0, {"topk": 60, "relu": 60}, 0.0),
    ],
)
def test_the_seconds_of_a_pass(make_config, per_update, per_batch, done, wanted):
    (pass_,) = passes_of(make_config({"topk": TOPK, "relu": RELU}))
    named = {f"{name}@{SITE}": seconds for name, seconds in per_update.items()}
    assert seconds_left(pass_, PassRate(named, per_batch), {f"{n}@{SITE}": step for n, step in done.items()}) == wanted


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0.0 s"),
        (0.54, "0.5 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (90000, "1 d 1 h"),
        (86400 * 4000, "4,000 d 0 h"),
    ],
)
def test_a_time_is_said_in_its_two_largest_units(seconds, said):
    assert duration(seconds) == said


def test_what_is_said_is_the_sum_of_the_passes(make_config, monkeypatch):
    config = make_config({"topk": TOPK, "relu": {**RELU, "training": {"batch_size": 32}}})
    passes = passes_of(config)
    assert len(passes) == 2
    rates = [PassRate({job.name: 0.5 for job in pass_.jobs}, 0.001) for pass_ in passes]
    monkeypatch.setattr(estimate, "free_bytes", lambda device: 3_000_000_000)
    lines = estimate_lines(passes, rates, CPU)
    assert lines[0] == f"{SITE}: about 30 s for 60 steps: 2 steps a second of all 1 SAEs, 1 ms to read a batch"
    assert lines[-1].startswith("about 1 min 0 s in all on cpu")
    assert "3.00 GB of memory are free now" in lines[-1]
    assert "3 updates of each kind of SAE" in lines[-1]
    assert estimate_lines([], [], CPU) == []
    checkpoint = passes[0].jobs[0].folder.checkpoints
    (checkpoint / "step_00000020").mkdir(parents=True)
    (checkpoint / "step_00000040").mkdir()
    (checkpoint / ".staged-step_00000050").mkdir()
    assert [steps_done(job) for pass_ in passes for job in pass_.jobs] == [40, 0]
    assert "about 10 s for 60 steps" in estimate_lines(passes, rates, CPU)[0]


def test_the_measuring_is_real_updates_on_rows_of_the_store_and_leaves_nothing(make_config, monkeypatch):
    seen: list[tuple[str, torch.Size, int]] = []
    update = Trainee.update

    def counted(trainee, x_BM, target_BM=None):
        seen.append((trainee.variant.sae.architecture, x_BM.shape, trainee.step))
        assert float(x_BM.square().sum(1).mean()) == pytest.approx(1.0, abs=0.5), "rows of the store, scaled"
        done = update(trainee, x_BM, target_BM)
        assert done is not None
        return done

    monkeypatch.setattr(Trainee, "update", counted)
    config = make_config({**ALL, "topk2": TOPK})
    (pass_,) = passes_of(config)
    (rate,) = measured_rates([pass_], open_store(config), CPU)
    assert set(rate.seconds_per_update) == {f"{name}@{SITE}" for name in (*ALL, "topk2")}
    assert all(seconds > 0 for seconds in rate.seconds_per_update.values())
    assert rate.seconds_per_update[f"topk@{SITE}"] == rate.seconds_per_update[f"topk2@{SITE}"]
    assert rate.seconds_per_batch >= 0
    kinds = [architecture for architecture, _, _ in seen]
    assert kinds == ["topk"] * 4 + ["batch_topk"] * 4 + ["relu"] * 4, "one of each kind, the first update not timed"
    assert {shape for _, shape, _ in seen} == {torch.Size([64, 16])}
    assert [step for _, _, step in seen] == [0, 1, 2, 3] * 3
    assert not Path("runs").exists()


def test_a_dry_run_says_the_time_only_where_it_is_measured(make_config):
    config = make_config({"topk": TOPK})
    assert "in all on" not in describe_training(config)
    said = describe_training(config, measure=lambda passes, *_: [PassRate({f"topk@{SITE}": 2.0}, 0.0) for _ in passes])
    assert "about 2 min 0 s in all on cpu" in said.splitlines()[-1]
    assert "in all on cpu" in describe_training(config, measure=measured_rates)
