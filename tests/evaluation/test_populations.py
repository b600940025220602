"""Two populations from one read: each as if it alone had been scored, and what is kept of every document."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.evaluation.metrics import METRICS
from strata_sae.pipeline.evaluation.totals import Totals
from strata_sae.stores import ActivationStore, Filters, StoreError
from support.evaluation_folder import SITE

FILTERS: list[dict[str, Any]] = [
    {"max_norm_multiple": 1.1},  # training leaves out more than special tokens
    {"drop_bos": False, "drop_special": False},  # training saw special tokens
    {},  # one population
]


def record(file: str = "metrics.json", sae: str = "topk") -> dict[str, Any]:
    path = Path("runs/run/variants") / f"{sae}@{SITE}" / file
    return json.loads(path.read_text(encoding="utf-8"))


def of_special(store: ActivationStore) -> tuple[np.ndarray, np.ndarray]:
    rows, numbers = zip(*store.in_order(SITE, "heldout", Filters(True, True), 10**6), strict=True)
    return np.concatenate(rows), np.concatenate(numbers)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("batch_size", [37, 100, 10_000])
def test_all_but_special_is_what_a_run_scores_that_trains_on_all_but_special(
    make_run, filters, batch_size, monkeypatch
):
    monkeypatch.setattr(Totals, "batch_rows", 64)
    evaluate(make_run({})[0])  # the filters that leave out special tokens, and no others
    alone = record()
    reads = []
    original = ActivationStore.in_order
    monkeypatch.setattr(ActivationStore, "in_order", lambda *a: reads.append(a) or original(*a))
    evaluate(make_run(filters, batch_size=batch_size)[0])
    both = record()
    assert len(reads) == (2 if filters else 0), "scores, examples: as many as for one population"
    others = both["all_but_special"]
    assert others["n_rows"] == alone["n_rows"]
    assert (both["n_rows"] != alone["n_rows"]) == bool(filters), "control: they are not the same rows"
    assert others["n_documents"] == alone["n_documents"]
    assert others["density_histogram"] == alone["density_histogram"]
    assert others["top_percent_square_share"] == pytest.approx(alone["top_percent_square_share"])
    assert others["metrics"].keys() == {name for name, metric in METRICS.items() if metric.of_rows}
    for name, measured in others["metrics"].items():
        wanted = alone["metrics"][name]["value"]
        assert measured["value"] == (None if wanted is None else pytest.approx(wanted, rel=1e-6)), name
    for found, wanted in zip(others["by_position"], alone["by_position"], strict=True):
        assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("filters", FILTERS)
def test_sums_by_document_give_the_scores(make_run, filters):
    config, store = make_run(filters)
    evaluate(config)
    scores, sums = record(), record("per_document.json")["populations"]
    assert sums.keys() == {"as_trained", "all_but_special"}
    for found, own in ((scores, sums["as_trained"]), (scores["all_but_special"], sums["all_but_special"])):
        assert sum(own["n_rows"]) == found["n_rows"]
        assert len(own["documents"]) == found["n_documents"]
        r2 = 1 - sum(own["error_square"]) / sum(own["centred_square"])
        assert r2 == pytest.approx(found["metrics"]["r2_pooled"]["value"], rel=1e-9)
        assert sum(own["active"]) / sum(own["n_rows"]) == pytest.approx(found["metrics"]["l0"]["value"], rel=1e-12)
    rows, numbers = of_special(store)
    document_N = store.token_map("document", 0, store.plan.n_rows)[numbers]
    own = sums["all_but_special"]
    assert own["documents"] == list(dict.fromkeys(document_N.tolist()))
    centred = ((rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)) ** 2).sum(axis=1)
    assert own["centred_square"] == pytest.approx([centred[document_N == one].sum() for one in own["documents"]])


def test_errors_of_special_tokens_and_by_position(make_run):
    config, store = make_run({"max_norm_multiple": 1.1})
    evaluate(config)
    scores = record(sae="identity")
    assert scores["metrics"]["mse_special"]["value"] == 0.0
    assert scores["metrics"]["mse_special_log2"]["value"] is None
    assert scores["metrics"]["mse_template"]["value"] is None, "no such token"
    assert record()["metrics"]["mse_special"]["value"] > record()["metrics"]["mse_per_dim"]["value"], "50 times longer"
    _, numbers = of_special(store)
    positions = store.token_map("position", 0, store.plan.n_rows)[numbers]
    found = {(part["start"], part["stop"]): part["n_rows"] for part in scores["all_but_special"]["by_position"]}
    assert sum(found.values()) == len(numbers)
    assert found[4, 8] == ((positions >= 4) & (positions < 8)).sum()
    assert (0, 1) not in found, "BOS"


def test_a_row_that_is_not_finite_is_one_line_and_loses_no_scores(make_run, monkeypatch):
    config, _ = make_run()
    evaluate(config)
    before = record()
    original = ActivationStore.in_order

    def damaged(store: ActivationStore, *arguments: Any) -> Any:
        for rows, numbers in original(store, *arguments):
            rows[3, 5] = np.nan
            yield rows, numbers

    monkeypatch.setattr(ActivationStore, "in_order", damaged)
    with pytest.raises(StoreError, match=r"row \d+ holds a number that is not finite") as caught:
        evaluate(make_run(max_rows=50)[0])
    assert "\n" not in str(caught.value)
    assert record() == before


@pytest.mark.parametrize("damage", ["edited", "another's", "gone"])
def test_sums_by_document_that_are_not_those_of_the_scores(make_run, damage):
    config, _ = make_run()
    evaluate(config)
    ours, theirs = (Path("runs/run/variants") / f"{sae}@{SITE}/per_document.json" for sae in ("topk", "identity"))
    data = ours.read_bytes()
    if damage == "gone":
        ours.unlink()
        evaluate(config)
        assert ours.read_bytes() == data
        return
    ours.write_bytes(data.replace(b"3", b"4", 1) if damage == "edited" else theirs.read_bytes())
    with pytest.raises(CheckpointError, match=r"per_document\.json: sha256"):
        evaluate(config)
