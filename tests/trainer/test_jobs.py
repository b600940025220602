"""Which jobs a config makes, which of them share a pass, and what a pass takes."""

import errno
import os
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.trainer.jobs import Job, never_dead, plan_jobs, remove_checkpoints
from strata_sae.pipeline.trainer.passes import Pass, plan_passes
from support.small_run import SITE, run_data
from support.small_store import build_store

VARIANT = {"sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "objective": {"reconstruction": {}}}


def jobs_of(config: RunConfig) -> list[Job]:
    return plan_jobs(config, open_store(config), RunFolder(config.run_path()))


def passes_of(config: RunConfig) -> list[Pass]:
    return plan_passes(jobs_of(config), open_store(config), config.training.memory_bytes, torch.device("cpu"))


def test_every_variant_at_every_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    data = run_data(build_store(tmp_path / "store", 900, {"s1": 4, "s2": 8}), {"a": VARIANT, "b": VARIANT})
    data["store"]["sites"] = ["s1", "s2"]
    jobs = jobs_of(RunConfig.model_validate(data))
    assert [job.name for job in jobs] == ["a@s1", "b@s1", "a@s2", "b@s2"]
    assert [job.record.d_out for job in jobs] == [4, 4, 8, 8]
    assert [job.folder.config for job in jobs[:1]] == [Path("runs/run/variants/a@s1/config.json")]


def test_own_settings_win_and_separate(make_config):
    variants = {
        "a": VARIANT,
        "rate": {**VARIANT, "training": {"learning_rate": 0.5}},
        "seed": {**VARIANT, "seed": 7},
        "batch": {**VARIANT, "training": {"batch_size": 32}},
        "zero": {**VARIANT, "seed": 0},
    }
    passes = passes_of(make_config(variants))
    names = [[job.variant_name for job in pass_.jobs] for pass_ in passes]
    assert names == [["a", "rate", "zero"], ["seed"], ["batch"]]
    assert [job.training.learning_rate for job in passes[0].jobs] == [0.003, 0.5, 0.003]
    assert (passes[1].seed, passes[2].training.batch_size) == (7, 32)
    assert passes[0].describe() == f"{SITE}: batches of 64 rows, seed 0, read once for a, rate, zero"


def test_a_pass_and_its_jobs_agree_on_all_but_what_a_variant_may_change(make_config):
    variants = {"b": {**VARIANT, "training": {"batch_size": 32}}, "a": {**VARIANT, "training": {"batch_size": 32}}}
    variants["a"]["training"] |= {"learning_rate": 0.5}
    (pass_,) = passes_of(make_config(variants, batch_size=64))
    own = pass_.jobs[1].training
    assert pass_.training.model_copy(update={"learning_rate": 0.5}) == own
    assert pass_.training.learning_rate == 0.003, "control: the pass has no say in it"
    assert (pass_.stream.batch_size, pass_.stream.seed) == (32, 0)


def test_memory_and_disk_are_counted(make_config):
    (pass_,) = passes_of(make_config({"a": VARIANT, "b": VARIANT}, window_rows=100))
    parameters = 2 * (2 * 64 * 16 + 64 + 16)
    assert pass_.memory_bytes() == 4 * parameters * 4 + 64 * 64 * 4 + 2 * 100 * 64
    assert pass_.checkpoint_bytes() == 9 * parameters * 4
    assert pass_.weights_bytes() == parameters * 4


def test_dead_latents_that_would_never_be_found_are_announced(make_config):
    reviving = {**VARIANT, "objective": {"reconstruction": {}, "aux_k": {}}}
    variants = {"plain": VARIANT, "late": reviving, "fine": {**reviving, "training": {"dead_after_rows": 3840}}}
    (line,) = never_dead(jobs_of(make_config(variants, dead_after_rows=3841)))
    assert line.startswith("late: ")
    assert never_dead(jobs_of(make_config(variants, dead_after_rows=3840))) == []


def test_of_an_sae_on_a_disk_that_can_only_be_read_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = VariantFolder(tmp_path)
    (folder.checkpoints / "step_00000005").mkdir(parents=True)
    folder.failures.write_text("r1 step 5: its process died\n")

    def refused(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as read_only:
        read_only.setattr("os.rmdir", refused)
        read_only.setattr(Path, "rmdir", refused)
        read_only.setattr(Path, "unlink", refused)
        remove_checkpoints(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "failures.txt"]
    remove_checkpoints(folder)
    assert not list(tmp_path.iterdir()), "elsewhere all of it goes"
