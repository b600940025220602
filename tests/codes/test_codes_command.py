"""What `strata codes` is asked and says: estimates, refusals before anything is written, SAEs that have no codes."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from strata_sae.pipeline.codes import build, encoding, segments
from strata_sae.pipeline.codes.estimate import estimate, is_too_dense, most_pairs, rows_per_segment
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.reading.feed import side_by_side
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores import ActivationStore, CodesStore, write_store
from support.evaluation_folder import D_MODEL, SITE
from support.run_of_all_kinds import N_ROWS, RUN, VARIANTS, make, random_weights, write_sae

TOPK, DENSE = f"topk@{SITE}", f"dense@{SITE}"
OF_DENSE = {"architecture": "relu", "d_sae": 1400}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one SAE that has codes, one that diverged, and one with hundreds of active latents a row."""
    folder = tmp_path_factory.mktemp("command")
    run = RunFolder(make(folder))
    store_id = id_of_store(folder)
    for path in (run.path / "variants").iterdir():
        if path.name != TOPK:
            shutil.rmtree(path)
    write_sae(run, "dense", store_id, OF_DENSE, random_weights(OF_DENSE, 3))
    write_sae(run, "gone", store_id, VARIANTS["relu"], random_weights(VARIANTS["relu"], 4), diverged=True)
    return folder


def id_of_store(folder: Path) -> str:
    return ActivationStore.open(folder / "store").id


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Iterator[Path]:
    """The working folder of a test."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    config = yaml.safe_load((tmp_path / RUN / "config.yaml").read_text())
    config["store"]["path"] = "store"
    (tmp_path / RUN / "config.yaml").write_text(yaml.safe_dump(config))
    with contextlib.chdir(tmp_path):
        yield tmp_path


def codes(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["codes", *map(str, arguments)])


def names_of_codes(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / RUN).glob("variants/*/codes")}


def test_an_estimate_first_then_codes_and_nothing_of_what_is_refused(folder: Path) -> None:
    result = codes(RUN)
    assert result.exit_code == 2
    assert "of 1,400 latents are active on a row" in result.stderr
    assert "at most 5%" in result.stderr
    said = result.stderr.splitlines()
    assert any(line.startswith(f"{TOPK}: 4.0 of 60 latents a row (6.67%), about 5,") for line in said), said
    assert any(line.startswith(f"gone@{SITE}: its training diverged") for line in said)
    assert names_of_codes(folder) == {TOPK}
    assert CodesStore.open(folder / RUN / "variants" / TOPK / "codes").plan.n_rows == N_ROWS


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    assert codes(RUN, "--dry-run").exit_code == 2
    assert codes(f"{RUN}/{TOPK}", "--dry-run").exit_code == 0
    assert names_of_codes(folder) == set()
    assert codes(f"{RUN}/{TOPK}").exit_code == 0
    labels = RunFolder(folder / RUN).variant(TOPK).token_labels
    labels.unlink()  # as a kill between codes and labels leaves it
    assert (codes(f"{RUN}/{TOPK}", "--dry-run").exit_code, labels.exists()) == (0, False)
    assert (codes(f"{RUN}/{TOPK}").exit_code, labels.exists()) == (0, True)


def test_too_many_codes_in_a_segment_end_it_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store whose sampled rows have few codes, and all others many."""
    monkeypatch.setattr(build, "sampled_l0", lambda *_: 10.0)
    result = codes(f"{RUN}/{DENSE}")
    assert result.exit_code == 2
    assert "segment 0" in result.stderr
    assert "of 1,400 latents are active on a row" in result.stderr
    assert not list((folder / RUN).glob("variants/*/codes/segments/*"))
    monkeypatch.setattr(segments, "most_pairs", lambda *_: 10**9)  # control
    assert codes(f"{RUN}/{DENSE}").exit_code == 0


def test_a_disk_that_is_too_small_is_told_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    result = codes(f"{RUN}/{TOPK}")
    assert result.exit_code == 2
    assert "more bytes and its disk has 1,000 free; make room" in result.stderr
    assert names_of_codes(folder) == set()


def test_a_store_that_moved_and_one_that_is_another(folder: Path) -> None:
    os.rename("store", "moved")
    assert codes(f"{RUN}/{TOPK}").exit_code != 0
    assert codes(f"{RUN}/{TOPK}", "--set", "store.path=moved").exit_code == 0
    shutil.rmtree(folder / RUN / "variants" / TOPK / "codes")
    other = write_store(folder / "other", {SITE: np.ones((N_ROWS, D_MODEL), np.float32)})
    result = codes(f"{RUN}/{TOPK}", "--set", "store.path=other")
    assert result.exit_code == 1
    assert f"but the store with {SITE} is {other.id[:16]}; set store.path" in result.stderr
    assert names_of_codes(folder) == set()


def test_codes_of_other_weights_are_refused(folder: Path) -> None:
    assert codes(f"{RUN}/{TOPK}").exit_code == 0
    other = random_weights(VARIANTS["topk"], 8)
    write_sae(RunFolder(folder / RUN), "topk", id_of_store(folder), VARIANTS["topk"], other)
    result = codes(f"{RUN}/{TOPK}")
    assert result.exit_code == 1
    assert "holds codes of other weights" in result.stderr
    assert "delete that folder and run strata codes again" in result.stderr
    shutil.rmtree(folder / RUN / "variants" / TOPK / "codes")
    assert codes(f"{RUN}/{TOPK}").exit_code == 0


def test_a_row_that_is_not_finite_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a store may hold that another program wrote."""

    def broken(parts: list[np.ndarray], *rest: Any) -> torch.Tensor:
        x_BM = side_by_side(parts, *rest)
        x_BM[-20:, 3] = float("inf")  # of the sampled tiles the last one ends with row 1299
        return x_BM

    monkeypatch.setattr(encoding, "side_by_side", broken)
    result = codes(f"{RUN}/{TOPK}")
    assert result.exit_code == 1
    assert f"{SITE}: row 492 holds a number that is not finite" in result.stderr
    assert names_of_codes(folder) == set()


def test_verify_says_which_file_is_damaged(folder: Path) -> None:
    assert "no SAE has codes yet" in codes(f"{RUN}/{TOPK}", "--verify").stderr
    assert codes(f"{RUN}/{TOPK}").exit_code == 0
    assert "every byte is as it was written" in codes(RUN, "--verify").stdout
    path = next((folder / RUN).glob("variants/*/codes/segments/0000.zarr/latent/value/c/0"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    result = codes(RUN, "--verify")
    assert result.exit_code == 1
    assert "latent/value" in result.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("runs/none", "neither a run nor an SAE of one"),
        (f"{RUN}/topkk", "did you mean 'topk'?"),
        ("store", "nothing is written into a store"),
    ],
)
def test_what_is_no_run_is_told(folder: Path, given: str, said: str) -> None:
    result = codes(given)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_numbers_of_estimates() -> None:
    assert rows_per_segment(48.0) == 2**20
    assert rows_per_segment(48.1) == 2**19
    assert rows_per_segment(1.0) == 2**20
    assert [is_too_dense(l0, 2304) for l0 in (115.0, 116.0)] == [False, True]
    assert [is_too_dense(l0, 60) for l0 in (60.0, 65.0)] == [False, True]
    assert most_pairs(2304, 1000) == 115_200
    of_demo = estimate(32.0, 2304, 131_072)
    assert of_demo.n_pairs == 32 * 131_072
    assert 4.5 < of_demo.n_bytes / of_demo.n_pairs < 5.7
