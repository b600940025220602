"""How workers share passes: even lots, memory by parts, failures counted by name, and what an engine is handed."""

import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs import claims
from strata_sae.pipeline.runs.claims import claim_in, living
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer import lots, passes
from strata_sae.pipeline.trainer.failures import MOST_FAILURES, failures, note_failure
from strata_sae.pipeline.trainer.one_pass import run_pass
from strata_sae.pipeline.trainer.train import train
from strata_sae.pipeline.trainer.trainee import Trainee
from support.small_run import ALL, SITE
from support.trained_run import RUN, folder_of, hashes, train_until


@dataclass
class Engine:
    """Its workers work one after the other, in this process, on what came through a pipe."""

    n_workers: int
    in_process = False
    watched: list[int] = field(default_factory=list)

    def run(self, work: Callable[[Share], None], watch: Callable[[], int]) -> list[str]:
        reasons = []
        for index in range(self.n_workers):
            self.watched.append(watch())
            try:
                sent = pickle.loads(pickle.dumps(work))  # noqa: S301 - of this process
                sent(Share(index, self.n_workers, "r1", here=self.n_workers))
            except CheckpointError as error:
                reasons.append(f"worker {index + 1}: {error}")
        return reasons


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The variants of each pass from now on."""
    made: list[list[str]] = []

    def counted(pass_: Any, *arguments: Any, **named: Any) -> dict[str, float]:
        made.append([job.variant_name for job in pass_.jobs])
        return run_pass(pass_, *arguments, **named)

    monkeypatch.setattr("strata_sae.pipeline.trainer.train.run_pass", counted)
    return made


@pytest.mark.parametrize(
    ("n_workers", "sizes"), [(1, [5, 2]), (2, [5, 2]), (3, [2, 3, 1, 1]), (6, [1, 2, 2, 1, 1]), (64, [1] * 7)]
)
def test_passes_are_split_evenly_where_there_are_more_workers(n_workers: int, sizes: list[int]) -> None:
    @dataclass(frozen=True)
    class Whole:
        jobs: tuple[int, ...]

    whole: Any = [Whole((0, 1, 2, 3, 4)), Whole((5, 6))]
    parts = [part.jobs for part in lots.lots_of(whole, n_workers)]
    assert [len(part) for part in parts] == sizes
    assert [job for part in parts for job in part] == [*range(7)]
    assert lots.lots_of([], n_workers) == []


def test_workers_of_an_engine_leave_the_bits_of_one(make_config, uninterrupted, trained, caplog):
    engine = Engine(2)
    with caplog.at_level(logging.INFO):
        train(TrainConfig.of(make_config(ALL), "c"), engine=engine, show_progress=False)
    assert trained == [["topk"], ["batch", "relu"]], "the first one finds the rest when its own part is done"
    assert hashes() == uninterrupted
    assert engine.watched == [0, 3 * 60]
    assert caplog.text.count("read once for") == 2, "announced by the process that asks, not by its workers"
    assert f"relu     {SITE}     60" in caplog.text, "the table"
    train(TrainConfig.of(make_config(ALL), "c"), engine=engine, show_progress=False)
    assert len(trained) == 2


def test_processes_of_this_machine_leave_the_bits_of_one(make_config, uninterrupted):
    train(TrainConfig.of(make_config(ALL), "c"), engine=Local(2), show_progress=False)
    assert hashes() == uninterrupted
    assert not RunFolder(RUN).claims.exists()


def test_an_sae_that_always_fails_is_tried_alone_at_last_and_told_by_name(make_config, monkeypatch, trained, caplog):
    real = Trainee.update

    def update(self: Trainee, *rows: Any, monitored: bool) -> Any:
        if self.variant.sae.architecture == "relu" and self.step == 25:
            raise RuntimeError("CUDA out of memory")
        return real(self, *rows, monitored=monitored)

    monkeypatch.setattr(Trainee, "update", update)
    name = f"relu@{SITE}"
    named = (
        rf"1 of 3 SAEs are not trained \({name}\): worker 1: {name}: its training failed 3 times at step 20, at last: "
    )
    with pytest.raises(CheckpointError, match=named + "CUDA out of memory. Remove the cause"):
        train(TrainConfig.of(make_config(ALL), "c"), engine=Engine(2), show_progress=False)
    assert trained == [["topk"], ["batch", "relu"], ["batch", "relu"], ["batch"], ["relu"]]
    assert hashes().keys() == {"topk", "batch"}
    assert living(RunFolder(RUN)) == []
    assert len(folder_of("relu").failures.read_text().splitlines()) == MOST_FAILURES


def test_what_fails_comes_last_so_that_the_rest_is_trained(make_config, monkeypatch, trained):
    def update(self: Trainee, *rows: Any, monitored: bool) -> Any:
        raise AssertionError("it is not tried")

    real = Trainee.update
    monkeypatch.setattr(
        Trainee,
        "update",
        lambda self, *rows, monitored: (update if self.variant.sae.architecture == "topk" else real)(
            self, *rows, monitored=monitored
        ),
    )
    for _ in range(MOST_FAILURES):
        note_failure(folder_of("topk"), "r1", "the GPU fell off")
    told = (
        rf"not trained \(topk@{SITE}\): worker 1: topk@{SITE}: its training failed 3 times at step 0, at last: the GPU"
    )
    with pytest.raises(CheckpointError, match=told):
        train(TrainConfig.of(make_config(ALL), "c"), engine=Engine(2), show_progress=False)
    assert trained == [["batch", "relu"]]
    assert hashes().keys() == {"batch", "relu"}


def test_what_failed_is_trained_by_the_next_run(make_config, uninterrupted, monkeypatch):
    train_until(make_config(ALL), monkeypatch, 9, before=False)
    for _ in range(MOST_FAILURES):
        note_failure(folder_of("relu"), "an-earlier-run", "the disk\nwas full")
    assert failures(folder_of("relu"), "an-earlier-run") == ["the disk was full"] * MOST_FAILURES
    assert failures(folder_of("relu"), "another-run") == []
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted
    assert not folder_of("relu").failures.exists()


def test_failures_count_together_only_while_no_checkpoint_is_written(tmp_path, make_config):
    folder = folder_of("relu")
    for _ in range(2):
        note_failure(folder, "r1", "it died")
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / "step_00000010").mkdir()
    assert failures(folder, "r1") == []
    note_failure(folder, "r1", "once more")
    assert failures(folder, "r1") == ["once more"]


def test_only_one_worker_tells_an_error_at_once(make_config, monkeypatch, trained):
    def update(self: Trainee, *rows: Any, monitored: bool) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(Trainee, "update", update)
    with pytest.raises(OSError, match="no space left"):
        train(make_config(ALL), show_progress=False)
    assert len(trained) == 1
    assert not RunFolder(RUN).claims.exists()
    assert not folder_of("topk").failures.exists()


@pytest.mark.parametrize(("device", "parts"), [("cpu", 4), ("cuda", 1)])
def test_workers_of_one_machine_share_its_memory(monkeypatch, device, parts):
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(passes, "whole_passes", lambda jobs, stores: [Whole()])
    monkeypatch.setattr(passes, "_split", lambda whole, budget, most: found.append((budget, most)) or [])
    monkeypatch.setattr(passes, "free_bytes", lambda device: 4000)
    monkeypatch.setattr(passes, "total_bytes", lambda device: 9000)

    @dataclass
    class Device:
        type: str

    @dataclass
    class Whole:
        n_ranks: int = 1

    nothing: Any = None
    passes.plan_passes([], nothing, None, Device(device), 4)  # type: ignore[arg-type]
    passes.plan_passes([], nothing, 800, Device(device), 4)  # type: ignore[arg-type]
    assert found == [(4000 // parts, 9000), (800 // parts, 9000)]


def test_a_trainer_that_was_taken_for_dead_writes_nothing_more(make_config, uninterrupted, monkeypatch, caplog):
    """Its lock file is another's from the 23rd update on; it looks again, and waits until that one has ended."""
    real, made, other = Trainee.update, 0, []

    def update(self: Trainee, *rows: Any, monitored: bool) -> Any:
        nonlocal made
        made += 1
        if made == 23:
            (RunFolder(RUN).claims / f"topk@{SITE}.lock").unlink()
            other.append(claim_in(RunFolder(RUN), f"topk@{SITE}"))
        return real(self, *rows, monitored=monitored)

    def pause() -> None:
        assert curves.read_bytes() == before
        other.pop().release()

    monkeypatch.setattr(Trainee, "update", update)
    monkeypatch.setattr(claims, "pause", pause)
    curves: Path = folder_of("topk").curves
    before = b""

    def read(self: lots.Taken) -> None:
        nonlocal before
        before = curves.read_bytes() if curves.exists() else b""
        real_check(self)

    real_check = lots.Taken.check_held
    monkeypatch.setattr(lots.Taken, "check_held", read)
    train(make_config({"topk": ALL["topk"]}), show_progress=False)
    assert "another process has taken it over" in caplog.text
    assert hashes() == {"topk": uninterrupted["topk"]}
