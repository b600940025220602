"""A run that is really trained: evaluate leaves comparisons and stability that agree with its scores."""

from pathlib import Path

import pytest

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.runs.comparison_records import Comparisons, Stability
from strata_sae.pipeline.runs.evaluation_records import Metrics
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore
from support.evaluation_folder import D_MODEL, config_data, random_weights, write_trained
from support.small_run import SITE, TOPK, run_data, store_for_training
from support.small_store import DOCUMENT_ROWS, build_store

VARIANTS = {"topk": TOPK, "again": {**TOPK, "seed": 7}, "other": {**TOPK, "sae": {**TOPK["sae"], "k": 5}}}
RUN = RunFolder(Path("runs/run"))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(tmp_path)
    store = store_for_training(tmp_path / "store", n_rows=3000)
    data = run_data(store, VARIANTS, n_steps=10, calibration_rows=128, window_rows=512)
    found = RunConfig.model_validate({**data, "evaluation": {"batch_size": 64, "context_tokens": 3}})
    train(found, show_progress=False)
    return found


def test_the_tables_hold_the_scores_of_both_populations_and_the_recipes(config: RunConfig) -> None:
    evaluate(config)
    tables = read_record(RUN.comparisons, Comparisons).record.tables
    assert len(tables) == 4
    for table in tables:
        assert [recipe.variants for recipe in table.recipes] == [["topk", "again"], ["other"]]
        assert [recipe.seeds for recipe in table.recipes] == [[0, 7], [0]]
        assert len(table.pairs) == 1
        for sae in table.saes:
            scores = read_record(RUN.variant(sae.name).metrics, Metrics).record
            metrics = scores.metrics if table.population == "as_trained" else scores.all_but_special.metrics
            assert sae.value.value == pytest.approx(metrics[table.metric].value, rel=1e-9)
            assert sae.fingerprint == scores.fingerprint
    (recipe,) = read_record(RUN.stability, Stability).record.recipes
    assert (recipe.variants, recipe.seeds) == (["topk", "again"], [0, 7])
    assert recipe.mcc.mean is not None
    assert -1 <= recipe.mcc.mean <= 1


def test_a_second_evaluation_writes_neither_file_again(config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    evaluate(config)
    before = [path.read_bytes() for path in (RUN.comparisons, RUN.stability)]
    caplog.set_level("INFO")
    evaluate(config)
    assert [path.read_bytes() for path in (RUN.comparisons, RUN.stability)] == before
    assert "compared already" in caplog.text
    assert "seeds compared already" in caplog.text


def handmade(folder: Path, n_rows: int) -> RunConfig:
    """Two SAEs without training, over a store of documents of 37 rows."""
    path = build_store(folder / "store", n_rows=n_rows, sites={SITE: D_MODEL})
    store_id = ActivationStore.open(path).id
    for name, k in (("a", 4), ("b", 5)):
        sae = {"architecture": "topk", "d_sae": 64, "k": k}
        write_trained(RUN.path, name, store_id, sae, random_weights(64, seed=k))
    return RunConfig.model_validate(config_data(path, {}, {}))


def test_one_held_out_document_is_scored_and_said_to_be_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate(handmade(tmp_path, 2 * DOCUMENT_ROWS))
    for table in read_record(RUN.comparisons, Comparisons).record.tables:
        assert table.n_documents == 1
        assert [note.partition(":")[0] for note in table.notes] == ["1 held-out document"]
        assert [sae.value.interval for sae in table.saes] == [None, None]
        assert table.pairs[0].verdict in ("no_interval", "not_matched")


def test_no_held_out_row_leaves_one_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate(handmade(tmp_path, DOCUMENT_ROWS))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "holds no held-out rows" in caplog.text
    assert not RUN.comparisons.exists()
