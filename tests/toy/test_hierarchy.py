"""Features in trees: what is drawn is what the settings promise, and the store holds all of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import RunConfig, load
from strata_sae.pipeline.config.run import ToyConfig
from strata_sae.pipeline.config.toy import Hierarchy
from strata_sae.pipeline.reading.truth import truth_of
from strata_sae.pipeline.toy.generators import Drawn, drawn, features
from strata_sae.pipeline.toy.hierarchy import zipf
from strata_sae.pipeline.toy.make import make_toy
from strata_sae.stores import ActivationStore, verify

N = 20_000
SETTINGS = Hierarchy(n_rows=N)
SMALL = {
    "kind": "hierarchy",
    "n_rows": 3000,
    "n_features": 40,
    "n_roots": 2,
    "n_children": 3,
    "depth": 2,
    "d_model": 16,
}


def dense(made: Drawn, n_features: int) -> np.ndarray:
    """Amplitudes [B, F], by a loop over rows."""
    assert made.amplitude is not None
    found = np.zeros((len(made.active), n_features))
    for row, (numbers, amplitudes) in enumerate(zip(made.active, made.amplitude, strict=True)):
        for number, amplitude in zip(numbers, amplitudes, strict=True):
            if number >= 0:
                found[row, number] = amplitude
    return found


@pytest.fixture(scope="module")
def amplitude() -> np.ndarray:
    return dense(drawn(SETTINGS, features(SETTINGS, 0), 0, 0, N), 256)


def test_parents_come_first_and_children_follow_level_by_level():
    parent = features(Hierarchy(n_features=20, n_roots=2, n_children=3, depth=2), 0).parent.tolist()
    assert parent == [-1, -1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5], "as far as there are features"
    assert features(Hierarchy(n_features=9, n_roots=2, n_children=3, depth=1), 0).parent.tolist()[-2:] == [1, -1]
    assert set(features(Hierarchy(n_roots=0), 0).parent.tolist()) == {-1}


def test_a_child_is_on_only_with_its_parent_and_without_its_siblings(amplitude: np.ndarray):
    on, parent = amplitude > 0, features(SETTINGS, 0).parent
    children = np.flatnonzero(parent >= 0)
    assert len(children) == 168
    assert not (on[:, children] & ~on[:, parent[children]]).any()
    for one in np.unique(parent[children]):
        assert on[:, parent == one].sum(axis=1).max() <= 1
    free = Hierarchy(n_rows=N, exclusive_share=0.0)
    together = dense(drawn(free, features(free, 0), 0, 0, 2000), 256) > 0
    assert together[:, parent == 0].sum(axis=1).max() > 1, "control: without exclusion siblings meet"


def test_rates_fall_as_zipf_says_and_compensation_holds_them(amplitude: np.ndarray):
    wanted, parent = zipf(SETTINGS), features(SETTINGS, 0).parent
    assert (wanted[0], wanted[-1]) == pytest.approx((0.4, 5e-4))
    assert (np.diff(wanted) < 0).all()
    rate = (amplitude > 0).mean(axis=0)
    alone = np.flatnonzero(parent < 0)
    error = np.sqrt(wanted[alone] / N)
    assert (np.abs(rate[alone] - wanted[alone]) < 6 * error).all()
    plain = Hierarchy(n_rows=N, compensate=False)
    without = (dense(drawn(plain, features(plain, 0), 0, 0, N), 256) > 0).mean(axis=0)
    inside = parent >= 0
    assert without[inside].sum() < 0.3 * rate[inside].sum(), "control: uncompensated children are rarer"


def test_rows_are_sums_of_the_directions_times_their_amplitudes():
    known = features(SETTINGS, 0)
    made = drawn(SETTINGS, known, 0, 0, 300)
    assert made.amplitude is not None
    np.testing.assert_allclose(np.linalg.norm(known.directions, axis=1), 1.0, rtol=1e-6)
    assert np.linalg.norm(known.further["bias"]) == pytest.approx(0.5)
    for row, numbers, amplitudes in zip(made.rows, made.active, made.amplitude, strict=True):
        expected = known.further["bias"].astype(np.float64)
        for number, amplitude in zip(numbers, amplitudes, strict=True):
            if number >= 0:
                expected = expected + float(amplitude) * known.directions[number].astype(np.float64)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_amplitudes_grow_with_the_parents(amplitude: np.ndarray):
    """Relative to its mean, a child's amplitude is its own draw times its parent's."""
    parent = features(SETTINGS, 0).parent
    child = 2
    rows = amplitude[:, child] > 0
    together = np.corrcoef(amplitude[rows, child], amplitude[rows, parent[child]])[0, 1]
    plain = Hierarchy(n_rows=N, scale_by_parent=False)
    other = dense(drawn(plain, features(plain, 0), 0, 0, N), 256)
    rows = other[:, child] > 0
    assert together > 0.3
    assert abs(np.corrcoef(other[rows, child], other[rows, parent[child]])[0, 1]) < 0.15, "control"


def test_correlation_couples_features_and_0_does_not():
    """The mean squared correlation of common features without trees, beside what independent ones would have: 1 / N."""

    def coupling(scale: float) -> float:
        settings = Hierarchy(
            n_features=30, n_roots=0, correlation_scale=scale, max_probability=0.5, min_probability=0.3
        )
        on = dense(drawn(settings, features(settings, 0), 0, 0, N), 30) > 0
        correlation = np.corrcoef(on.T)
        return float((correlation[np.triu_indices(30, 1)] ** 2).mean())

    assert coupling(0.1) > 10 / N
    assert coupling(0.0) < 2 / N


def test_rows_are_a_function_of_seed_and_block():
    known = features(SETTINGS, 0)
    one, again = drawn(SETTINGS, known, 0, 2, 1500), drawn(SETTINGS, known, 0, 2, 1500)
    assert np.array_equal(one.rows, again.rows)
    assert np.array_equal(one.active, again.active)
    assert not np.array_equal(one.rows, drawn(SETTINGS, known, 0, 3, 1500).rows)
    assert not np.array_equal(one.rows, drawn(SETTINGS, known, 1, 2, 1500).rows)


def made(path: Path, toy: dict[str, Any]) -> ActivationStore:
    data = {"name": "toy", "toy": toy, "store": {"path": str(path), "sites": ["toy"], "encoding": "float32"}}
    return make_toy(ToyConfig.of(RunConfig.model_validate(data), "a.yaml"))


def test_the_store_holds_rows_and_truth_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("strata_sae.pipeline.toy.make._BLOCK_ROWS", 1024)  # blocks of different widths
    store = made(tmp_path / "toy", SMALL)
    assert verify(tmp_path / "toy") == []
    truth = truth_of(store, "toy")
    assert truth is not None
    amplitude_BG = truth.amplitudes(np.arange(3000), torch.device("cpu"))
    rebuilt = (amplitude_BG @ truth.features_GM + truth.bias_M).numpy()
    np.testing.assert_allclose(rebuilt, store.rows("toy", 0, 3000), atol=1e-5)
    stored = safetensors.numpy.load(store.extra("toy.safetensors"))
    assert {"bias", "probability", "magnitude_mean", "magnitude_std", "factor", "exclusive"} <= stored.keys()
    on = [np.flatnonzero(row > 0) for row in amplitude_BG.numpy()[:60]]
    words = [f"f{numbers[-1]}" if len(numbers) else "nothing" for numbers in on]
    assert [store.text(n, n + 1).decode() for n in range(60)] == words
    document = store.token_map("document", 0, 3000)
    assert document[[0, 255, 256, 2699, 2700, 2955, 2956]].tolist() == [0, 0, 1, 10, 11, 11, 12]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_probability": 0.5}, "min_probability .0.5. exceeds max_probability .0.4."),
        ({"n_roots": 41}, "n_roots .41. exceeds n_features .40."),
        ({"max_probability": 1.5}, "max_probability"),
        ({"noise": 0.1}, "noise"),
    ],
)
def test_what_makes_no_hierarchy_is_refused(tmp_path: Path, change: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        made(tmp_path / "toy", {**SMALL, **change})


@pytest.mark.parametrize(
    "change", [{"n_features": 1, "n_roots": 0}, {"n_roots": 0}, {"depth": 0}, {"max_probability": 1.0}]
)
def test_its_extremes_are_made(tmp_path: Path, change: dict[str, Any]):
    store = made(tmp_path / "toy", {**SMALL, "n_rows": 600, **change})
    assert np.isfinite(store.rows("toy", 0, 600)).all()


def test_the_commands_work_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """strata run, by a config without model and corpus: each SAE is held against the truth, and the page says so."""
    config = str(Path(__file__).parents[2] / "configs/toy_hierarchy.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRATA_DATA", str(tmp_path / "data"))
    quick = ["toy.n_rows=3000", "training.n_steps=10", "training.warmup_steps=2", "training.batch_size=64"]
    done = CliRunner().invoke(app, ["run", config, *[word for change in quick for word in ("--set", change)]])
    assert done.exit_code == 0, done.output
    for variant in load(Path(config)).variants:
        record = json.loads(Path(f"runs/toy_hierarchy/variants/{variant}@toy/truth.json").read_text())
        assert (record["n_rows"], record["n_children"], len(record["children"])) == (300, 168, 64)
        assert sum(record["child_statuses"].values()) == 168
    assert "Toy truth" in Path("runs/toy_hierarchy/report.html").read_text(encoding="utf-8")
