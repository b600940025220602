"""Made-up rows: the sources' generators as loops, the statistics that they promise, and the store they lie in."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import RunConfig, load
from strata_sae.pipeline.config.run import ToyConfig, TrainConfig
from strata_sae.pipeline.config.toy import ParentAlwaysOn, TwoChildren
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.reading.which_store import find_store
from strata_sae.pipeline.toy.generators import drawn, features
from strata_sae.pipeline.toy.make import make_toy
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore, slice_store, verify
from strata_sae.stores.errors import StoreError

N = 40_000
TREE, PAIRS = ParentAlwaysOn(n_rows=N), TwoChildren(n_rows=N)


def within(share: float, expected: float, n: int = N) -> bool:
    """Five standard errors of a share: a fair generator fails once in two million seeds."""
    return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / n)


def test_seed_0s_tree_by_a_loop_over_rows():
    """x = u_parent + 1[r < 0.3] u_child + noise: without noise to the last digit."""
    settings = TREE.model_copy(update={"noise": 0.0, "n_rows": 500})
    known = features(settings, seed=3)
    made = drawn(settings, known, 3, 0, 500)
    for row, (parent, child) in zip(made.rows, made.active, strict=True):
        expected = known.directions[0].astype(np.float64)
        if child != -1:
            expected = expected + known.directions[child]
        assert parent == 0
        np.testing.assert_array_equal(row, expected.astype(np.float32))


def test_seed_2s_pairs_by_a_loop_over_features():
    """compute_result of its toy_dataset.py: for each row and each parent that is on, the perturbed feature is added."""
    settings = TwoChildren(n_rows=300, n_parents=20, d_model=12, perturbation=0.4)
    known = features(settings, seed=1)
    made = drawn(settings, known, 1, 0, 300)
    parents, perturbations = known.directions[:20], known.directions[20:].reshape(20, 2, 12)
    for row, active in zip(made.rows, made.active, strict=True):
        on, children = active[:3].tolist(), active[3:].tolist()
        assert len(set(on)) == 3
        result = np.zeros(12)
        for j in range(20):
            if j in on:
                choice = children[on.index(j)] - 20 - 2 * j
                assert choice in (0, 1), "a child of that parent"
                result += parents[j].astype(np.float64) + perturbations[j, choice]
        np.testing.assert_allclose(row, result, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(parents, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(perturbations, axis=2), 0.4, rtol=1e-6)
    assert known.parent.tolist() == [-1] * 20 + [j for j in range(20) for _ in range(2)]


def test_the_tree_has_the_statistics_of_its_source():
    known = features(TREE, 0)
    np.testing.assert_allclose(known.directions @ known.directions.T, np.eye(9), atol=1e-6)
    assert known.parent.tolist() == [-1] + [0] * 8
    made = drawn(TREE, known, 0, 0, N)
    child = made.active[:, 1]
    assert within((child != -1).mean(), 0.3)
    for number in range(1, 9):
        assert within((child == number).mean(), 0.3 / 8)
    assert not within((child == 1).mean(), 0.3 / 8 * 1.2), "control: a fifth more would be seen"
    noise = made.rows - known.directions[0] - np.where(child[:, None] != -1, known.directions[child], 0.0)
    assert noise.std() == pytest.approx(0.02, rel=5e-3)
    assert abs(noise.mean()) < 5 * 0.02 / math.sqrt(noise.size)
    assert np.corrcoef(noise[:, 0], noise[:, 1])[0, 1] == pytest.approx(0.0, abs=5 / math.sqrt(N))


def test_the_pairs_have_the_statistics_of_their_source():
    made = drawn(PAIRS, features(PAIRS, 0), 0, 0, N)
    parents, children = made.active[:, :3], made.active[:, 3:]
    assert all(len(set(row)) == 3 for row in parents.tolist())
    assert np.array_equal((children - 100) // 2, parents)
    shares = np.array([(parents == j).any(axis=1).mean() for j in range(100)])
    assert all(within(share, 0.03) for share in shares)
    assert within((children % 2).mean(), 0.5, 3 * N)
    both = (parents == 4).any(axis=1) & (parents == 9).any(axis=1)
    assert within(both.mean(), 3 * 2 / (100 * 99)), "each set of parents is as likely as any other"
    for place in range(3):  # a place says nothing about the parent
        assert abs(parents[:, place].mean() - 49.5) < 5 * 29 / math.sqrt(N)


def test_rows_are_a_function_of_seed_and_block():
    known = features(TREE, 0)
    one, again = drawn(TREE, known, 0, 2, 100), drawn(TREE, known, 0, 2, 100)
    assert np.array_equal(one.rows, again.rows)
    assert not np.array_equal(one.rows, drawn(TREE, known, 0, 3, 100).rows)
    assert not np.array_equal(one.rows, drawn(TREE, known, 1, 2, 100).rows)
    assert not np.array_equal(known.directions, features(TREE, 1).directions)


def data(path: Path, toy: dict[str, Any], **store: Any) -> dict[str, Any]:
    """What a config file would hold."""
    return {"name": "toy", "toy": toy, "store": {"path": str(path), "sites": ["toy"], "encoding": "float32", **store}}


SMALL = {"kind": "parent_always_on", "n_rows": 3000, "d_model": 16, "n_children": 3, "heldout_fraction": 0.2}
SMALL_PAIRS = {"kind": "two_children", "n_rows": 3000, "n_parents": 12}


def made(path: Path, toy: dict[str, Any], **store: Any) -> ActivationStore:
    return make_toy(ToyConfig.of(RunConfig.model_validate(data(path, toy, **store)), "a.yaml"))


@pytest.mark.parametrize("toy", [SMALL, SMALL_PAIRS])
def test_it_is_an_ordinary_store_with_its_truth(tmp_path, monkeypatch, toy):
    monkeypatch.setattr("strata_sae.pipeline.toy.make._BLOCK_ROWS", 1024)
    store = made(tmp_path / "toy", toy)
    assert verify(tmp_path / "toy") == []
    known = safetensors.numpy.load(store.extra("toy.safetensors"))
    active = safetensors.numpy.load(store.extra("truth.safetensors"))["active"]
    rows = store.rows("toy", 0, 3000)
    noise = toy.get("noise", 0.02) if toy is SMALL else 0.0
    for row, numbers in zip(rows, active, strict=True):
        expected = known["directions"][[n for n in numbers if n != -1]].sum(axis=0)
        assert np.abs(row - expected).max() <= 6 * noise + 1e-5
    start, stop = store.plan.splits["heldout"]
    assert (stop, stop - start) == (3000, 600 if toy is SMALL else 300)
    assert json.loads(store.extra("toy.json"))["kind"] == toy["kind"]
    if toy is SMALL:
        texts = [store.text(n, n + 1).decode() for n in range(50)]
        words = ["parent" if child == -1 else f"parent+child{child}" for child in active[:50, 1]]
        assert texts == words


def test_equal_settings_give_equal_bytes_and_other_ones_another_store(tmp_path):
    one, two = made(tmp_path / "one", SMALL), made(tmp_path / "two", SMALL)
    assert one.id == two.id
    other = made(tmp_path / "three", {**SMALL, "child_probability": 0.4})
    assert other.id != one.id


def test_a_finished_one_is_kept_and_another_one_is_not_overwritten(tmp_path, monkeypatch):
    first = made(tmp_path / "toy", SMALL)
    monkeypatch.setattr("strata_sae.pipeline.toy.make.drawn", lambda *a: pytest.fail("made again"))
    assert made(tmp_path / "toy", SMALL).id == first.id
    monkeypatch.undo()
    for change in ({**SMALL, "noise": 0.5}, {**SMALL, "n_rows": 2000}):
        with pytest.raises(StoreError):
            made(tmp_path / "toy", change)
    for form in ({"encoding": "bfloat16"}, {"chunk_bytes": 4096}):
        with pytest.raises(StoreError):
            made(tmp_path / "toy", SMALL, **form)
    assert ActivationStore.open(tmp_path / "toy").id == first.id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"], "nothing is left beside it"


def test_a_slice_keeps_the_directions_and_not_the_rows_truth(tmp_path):
    store = made(tmp_path / "toy", SMALL, chunk_bytes=4096)
    part = slice_store(store, tmp_path / "part", rows=(0, 512))
    assert part.extra("toy.safetensors") == store.extra("toy.safetensors")
    assert "truth.safetensors" not in part.extras


@pytest.mark.parametrize(
    ("toy", "said"),
    [
        ({"kind": "parent_always_on", "d_model": 8, "n_children": 8}, "cannot be orthogonal"),
        ({"kind": "two_children", "n_parents": 2}, "active_parents .3. exceeds n_parents .2."),
        ({"kind": "other"}, "kind"),
        ({"kind": "two_children", "noise": 0.1}, "noise"),
    ],
)
def test_what_makes_no_toy_is_refused(tmp_path, toy, said):
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate(data(tmp_path, toy))


def test_a_toy_is_in_the_place_of_a_model_and_of_one_site(tmp_path):
    model = {"model": {"path": "demo"}, "corpus": {"sources": [{"kind": "python_docs"}], "n_tokens": 100}}
    with pytest.raises(ValueError, match="remove model and corpus, or toy"):
        RunConfig.model_validate({**data(tmp_path, SMALL), **model})
    with pytest.raises(ConfigError, match=r"store\.sites: a toy has one, got a, b"):
        made(tmp_path / "toy", SMALL, sites=["a", "b"])
    with pytest.raises(ConfigError, match=r"toy: there is no store at .* command toy"):
        find_store(RunConfig.model_validate(data(tmp_path / "none", SMALL)))


def test_the_commands_work_on_it(tmp_path, monkeypatch):
    """strata toy, then train, evaluate and report by a config without model and corpus; run does all of it."""
    config = str(Path(__file__).parents[2] / "configs/toy.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRATA_DATA", str(tmp_path / "data"))
    quick = ["toy.n_rows=2000", "training.n_steps=30", "training.warmup_steps=2", "training.dead_after_rows=9000"]
    changes = [word for change in quick for word in ("--set", change)]
    missing = CliRunner().invoke(app, ["train", config, *changes])
    assert missing.exit_code == 2
    assert "command toy" in missing.output
    for command in ("toy", "train", "evaluate", "report", "run"):
        done = CliRunner().invoke(app, [command, config, *changes])
        assert done.exit_code == 0, done.output
    metrics = json.loads(Path("runs/toy/variants/topk@toy/metrics.json").read_text())
    assert metrics["n_rows"] == 200
    assert load(Path(config)).toy == ParentAlwaysOn(n_rows=40_000)
    assert Path("runs/toy/report.html").stat().st_size > 1000


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_of_a_store_without_held_out_rows_nothing_is_scored_and_that_is_said(tmp_path, monkeypatch, caplog, fraction):
    """Its SAEs are trained all the same. The other share is the control."""
    monkeypatch.chdir(tmp_path)
    variant = {"sae": {"architecture": "topk", "d_sae": 8, "k": 2}, "objective": {"reconstruction": {}}}
    config = TrainConfig.model_validate(
        data(tmp_path / "toy", {**SMALL, "heldout_fraction": fraction})
        | {"training": {"n_steps": 3, "batch_size": 64, "device": "cpu"}, "variants": {"topk": variant}}
    )
    make_toy(ToyConfig.of(config, "a.yaml"))
    train(config)
    with caplog.at_level("WARNING"):
        evaluate(config)
    assert ("holds no held-out rows, so nothing is scored" in caplog.text) == (fraction == 0.0)
    assert len(list(Path("runs/toy").rglob("metrics.json"))) == int(fraction > 0)
    assert Path("runs/toy/store.json").exists(), "the report says which store it was"
