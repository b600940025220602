"""stability.json: planted agreement of seeds, the null beside it, wide and damaged SAEs."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from strata_sae.pipeline.evaluation.comparing import stability
from strata_sae.pipeline.evaluation.comparing.stability import matched_latents, mcc, measure_stability, null_of, unit
from strata_sae.pipeline.runs.comparison_records import Stability
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import read_record, with_fingerprint, write_record
from support.compared_run import D_MODEL, SITE, compared_config
from support.made_up_records import curve_line, ending, sae_record, write_lines

RUN = Path("runs/run")
D_SAE = 24


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(seed: int, n: int = D_SAE, width: int = D_MODEL) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((n, width), dtype=np.float32))


def write_sae(name: str, seed: int, W_dec: NDArray[np.float32], k: int = 4) -> VariantFolder:
    folder = RunFolder(RUN).variant(f"{name}@{SITE}")
    sae = {"architecture": "topk", "d_sae": len(W_dec), "k": k}
    record = sae_record(name, SITE, sae, d_out=D_MODEL).model_copy(update={"seed": seed})
    record = with_fingerprint(record)
    write_record(folder.config, record)
    both = {name: torch.from_numpy(W_dec).clone() for name in ("W_enc", "W_dec")}
    biases = {"b_enc": torch.zeros(len(W_dec)), "b_dec": torch.zeros(D_MODEL)}
    safetensors.torch.save_file(both | biases, folder.weights)
    write_lines(folder.curves, [curve_line(1)])
    write_record(folder.training, ending(folder, record, n_steps=1))
    return folder


def measured() -> Stability:
    measure_stability(compared_config())
    return read_record(RunFolder(RUN).stability, Stability).record


def test_the_matching_is_the_best_of_all() -> None:
    a, b = rows(0, 5), rows(1, 5)
    best = max(np.mean([a[i] @ b[j] for i, j in enumerate(order)]) for order in permutations(range(5)))
    assert mcc(a, b) == pytest.approx(best, abs=1e-6)
    greedy = float((a @ b.T).max(1).mean())  # a partner may be taken twice
    assert greedy > best


def test_equal_decoders_in_another_order_have_1_and_random_ones_have_the_null() -> None:
    shuffled = np.random.default_rng(2).permutation(D_SAE)
    write_sae("a", 0, rows(0))
    write_sae("b", 1, rows(0)[shuffled] * np.float32(3))
    write_sae("c", 2, rows(5))
    (found,) = measured().recipes
    values = {(pair.first, pair.second): pair.mcc for pair in found.pairs}
    assert values["a", "b"] == pytest.approx(1, abs=1e-6)
    null = found.null_mcc
    assert null.mean is not None
    assert null.standard_deviation is not None
    assert null.n_seeds == 20
    for unrelated in (("a", "c"), ("b", "c")):
        assert abs(values[unrelated] - null.mean) < 4 * null.standard_deviation
    assert found.mcc.n_seeds == 3
    assert found.seeds == [0, 1, 2]
    assert found.n_matched == D_SAE


def test_the_null_is_far_from_0_and_drawn_from_its_seed() -> None:
    null = null_of(D_SAE, D_MODEL)
    assert null.mean is not None
    assert null.mean > 0.3
    assert null_of(D_SAE, D_MODEL) == null


def test_other_recipes_and_one_seed_are_not_compared() -> None:
    write_sae("a", 0, rows(0))
    write_sae("b", 1, rows(1), k=5)
    write_sae("c", 0, rows(2))  # a second one of the seed
    measure_stability(compared_config())
    assert not RunFolder(RUN).stability.exists()


def test_rows_of_zeros_count_as_0() -> None:
    dead = rows(0)
    dead[:6] = 0
    assert mcc(unit(dead), rows(0)) == pytest.approx((D_SAE - 6) / D_SAE, abs=1e-6)


def test_of_a_wide_sae_some_latents_are_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "MAX_COSINES", D_SAE * 10)
    write_sae("a", 0, rows(0))
    write_sae("b", 1, rows(0)[::-1].copy())
    (found,) = measured().recipes
    assert found.n_matched == len(matched_latents(D_SAE)) == 10
    assert found.mcc.mean == pytest.approx(1, abs=1e-6)


DAMAGES: dict[str, Callable[[VariantFolder], VariantFolder | int]] = {
    "torn weights": lambda folder: folder.weights.write_bytes(folder.weights.read_bytes()[:-8]),
    "not finite": lambda folder: write_sae("b", 1, np.full((D_SAE, D_MODEL), np.nan, dtype=np.float32)),
    "torn training.json": lambda folder: folder.training.write_bytes(b"{"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_is_one_line_and_the_rest_is_measured(
    damage: Callable[[VariantFolder], VariantFolder | int], caplog: pytest.LogCaptureFixture
) -> None:
    write_sae("a", 0, rows(0))
    damage(write_sae("b", 1, rows(1)))
    write_sae("c", 0, rows(2), k=5)
    write_sae("d", 1, rows(2), k=5)
    found = measured()
    assert [recipe.recipe for recipe in found.recipes] == ["c"]
    assert len(found.refused) == 1
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


def test_it_is_a_function_of_files_and_written_anew_only_when_they_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = RunFolder(RUN).stability
    write_sae("a", 0, rows(0))
    write_sae("b", 1, rows(1))
    measured()
    before = path.read_bytes()
    measured()
    assert "seeds compared already" in caplog.text
    path.write_bytes(before[:100])
    measured()
    assert path.read_bytes() == before
    write_sae("b", 1, rows(3))
    assert measured().recipes[0].mcc != Stability.model_validate_json(_without_hash(before)).recipes[0].mcc


def _without_hash(data: bytes) -> str:
    return "\n".join(line for line in data.decode().splitlines() if "self_sha256" not in line)
