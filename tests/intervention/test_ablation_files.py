"""What was measured of ablated latents is kept: never measured twice, whole after a kill, refused if it was changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.intervention import ablation, ablation_files
from strata_sae.pipeline.intervention.ablation import measured_effects
from strata_sae.pipeline.queries.asked_model import MeasuredEffects
from strata_sae.pipeline.queries.opened import CodedRun
from support import ablated_run
from support.ablated_run import ABLATED, EARLY, LATE, READER


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def made(folder: Path) -> TrainConfig:
    return ablated_run.make(folder, sites=[EARLY, LATE])


@pytest.fixture
def run(made: TrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CodedRun]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ablation, "PART_LATENTS", 8)
    opened = ablated_run.opened(made)
    yield opened
    for part in files(opened):
        part.unlink()


def files(run: CodedRun) -> list[Path]:
    return sorted(run.saes[ABLATED].folder.ablations.rglob("*.*"))


def measured(made: TrainConfig, run: CodedRun, n: int = 20, reader: str | None = READER) -> MeasuredEffects:
    other = None if reader is None else run.saes[reader]
    return measured_effects(made, run.saes[ABLATED], other, "as_trained", n=n)


def no_model(*given: Any) -> None:
    raise AssertionError("the model was loaded")


def test_what_was_measured_is_read_without_the_model(
    made: TrainConfig, run: CodedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(made, run)
    assert len(files(run)) == 2 * 3
    monkeypatch.setattr(ablation, "load_model", no_model)
    again = measured(made, run)
    assert again.latents == first.latents
    assert all((old == new).all() for old, new in zip(first[1:4], again[1:4], strict=True))
    assert len(measured(made, run, n=16).latents) == 16, "whole parts of it"
    with pytest.raises(AssertionError, match="the model was loaded"):
        measured(made, run, n=21)
    with pytest.raises(AssertionError, match="the model was loaded"):
        measured(made, run, reader=None)
    changed = made.model_copy(
        update={"evaluation": made.evaluation.model_copy(update={"with_model": None})}
    )  # 4,096 rows at most, not all
    with pytest.raises(AssertionError, match="the model was loaded"):
        measured(changed, run)


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_kill_costs_one_part_at_most(
    after: int, made: TrainConfig, run: CodedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """after: files that are written before it. The record of a part is written after its arrays."""
    whole = measured(made, run)
    expected = {path: path.read_bytes() for path in files(run)}
    for path in expected:
        path.unlink()
    n_written = 0

    def killed(write: Any) -> Any:
        def or_not(*given: Any) -> None:
            nonlocal n_written
            if n_written == after:
                raise KeyboardInterrupt
            n_written += 1
            write(*given)

        return or_not

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_record"):
            patch.setattr(ablation_files, name, killed(getattr(ablation_files, name)))
        with pytest.raises(KeyboardInterrupt):
            measured(made, run)
    assert len(files(run)) == after
    parts: list[list[int]] = []
    of = ablation.Ablation.of
    monkeypatch.setattr(ablation.Ablation, "of", lambda self, part, bar: parts.append(part) or of(self, part, bar))
    found = measured(made, run)
    assert len(parts) == 3 - after // 2
    assert {path: path.read_bytes() for path in files(run)} == expected
    assert found.latents == whole.latents


def test_changed_files_are_refused(made: TrainConfig, run: CodedRun) -> None:
    measured(made, run, n=8)
    arrays, record = sorted(files(run), key=lambda path: path.suffix, reverse=True)
    assert (arrays.suffix, record.suffix) == (".safetensors", ".json")
    good = arrays.read_bytes()
    arrays.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(
        CheckpointError, match=r"its sha256 is not that of its record; delete it and ask strata analyze"
    ):
        measured(made, run, n=8)
    arrays.unlink()
    with pytest.raises(CheckpointError, match=r"safetensors: .*delete it and ask strata analyze again"):
        measured(made, run, n=8)
    arrays.write_bytes(good)
    text = record.read_text(encoding="utf-8")
    record.write_text(text.replace('"n_sequences"', '"n_sequence"', 1), encoding="utf-8")
    with pytest.raises(CheckpointError, match="n_sequence"):
        measured(made, run, n=8)
    record.write_text(text, encoding="utf-8")
    assert np.isfinite(measured(made, run, n=8).effect).all(), "the control: as it was"
