"""`input_scale: per_document`, against seed 002's normalize_activations of one document at a time."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.reading import document_units as units_module
from strata_sae.pipeline.reading.document_units import document_units
from strata_sae.pipeline.reading.feed import Rows
from strata_sae.pipeline.runs.row_units import units_of_documents
from strata_sae.pipeline.runs.trained import TrainedSAE, load
from strata_sae.pipeline.trainer import one_pass
from strata_sae.pipeline.trainer.train import train
from strata_sae.pipeline.trainer.trainee import Trainee
from strata_sae.stores import ActivationStore, Batches, Filters, shuffle_store, write_store
from support.small_run import D_MODEL, RELU, SITE, TOPK
from support.trained_run import folder_of, hashes, train_until

FILTERS = Filters(True, True)
CPU = torch.device("cpu")


def normalize_activations(activation: Tensor) -> Tensor:
    """As the source has it, with the width in the place of its 768."""
    return (activation - activation.mean()) / activation.std() * math.sqrt(activation.shape[-1])


def by_document(store: ActivationStore, filters: Filters = FILTERS) -> dict[int, Tensor]:
    """Row number -> the row as the source makes it, in float64; a loop over documents."""
    rows, n_rows = torch.from_numpy(store.rows(SITE, 0, store.plan.n_rows).copy()).double(), store.plan.n_rows
    document, flags = store.token_map("document", 0, n_rows), store.token_map("flags", 0, n_rows)
    passes = (flags & filters.flag_mask()) == 0
    found = {}
    for number in np.unique(document):
        numbers = np.flatnonzero((document == number) & passes)
        found |= dict(zip(numbers.tolist(), normalize_activations(rows[numbers]), strict=True))
    return found


def wanted(expected: dict[int, Tensor], numbers: np.ndarray) -> Tensor:
    return torch.stack([expected[number] for number in numbers.tolist()])


def test_training_sees_what_the_source_does(make_config, store, monkeypatch):
    seen: list[Tensor] = []
    real = Trainee.update

    def update(self: Trainee, x_BM: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(x_BM.clone())
        return real(self, x_BM, *rest, **more)

    monkeypatch.setattr(Trainee, "update", update)
    train(make_config({"topk": TOPK}, input_scale="per_document", n_steps=5), show_progress=False)
    opened = ActivationStore.open(store)
    expected, without_filters = by_document(opened), by_document(opened, Filters())
    with Batches(opened, SITE, filters=FILTERS, batch_size=64, window_rows=1024) as batches:
        for step, x_BM in enumerate(seen):
            numbers = batches.batch(step)[1].copy()
            torch.testing.assert_close(x_BM.double(), wanted(expected, numbers), rtol=1e-5, atol=1e-5)
            assert not torch.allclose(x_BM.double(), wanted(without_filters, numbers), rtol=0.1), "control: BOS rows in"


def test_the_heldout_curve_is_of_rows_like_those_of_training(make_config, store, monkeypatch):
    seen: list[Rows] = []
    real = one_pass.measure

    def measure(trainees: Any, batches: Any) -> Any:
        return real(trainees, [rows for rows in batches if not seen.append(rows)])

    monkeypatch.setattr(one_pass, "measure", measure)
    heldout = {"every_steps": 3, "max_rows": 100, "patience": None}
    train(make_config({"topk": TOPK}, input_scale="per_document", n_steps=3, heldout=heldout), show_progress=False)
    expected = by_document(ActivationStore.open(store))
    assert sum(len(rows.numbers) for rows in seen) == 100
    for rows in seen:
        torch.testing.assert_close(rows.x_BM.double(), wanted(expected, rows.numbers), rtol=1e-5, atol=1e-5)


def test_an_extension_has_rows_of_its_parents_kind(make_config):
    train(make_config({"topk": TOPK}, input_scale="none"), show_progress=False)
    with pytest.raises(ConfigError, match="input_scale"):
        train(make_config({"topk": TOPK}, input_scale="per_document"), extend=20, show_progress=False)
    train(make_config({"topk": TOPK}, input_scale="none"), extend=20, show_progress=False)


@pytest.fixture
def both(make_config) -> tuple[Any, dict[str, TrainedSAE]]:
    """A run of two SAEs, one of them on rows standardised by document, trained and scored."""
    own = {**TOPK, "training": {"input_scale": "per_document"}}
    config = make_config({"own": own, "topk": TOPK}, learning_rate=1e-2)
    train(config, show_progress=False)
    evaluate(config)
    return config, {name: load(folder_of(name)) for name in ("own", "topk")}


def test_scores_are_of_raw_rows(both, store):
    _, saes = both
    opened = ActivationStore.open(store)
    ((rows, numbers),) = opened.in_order(SITE, "heldout", FILTERS, 10**6)
    seen = wanted(by_document(opened), numbers).float()
    document = opened.token_map("document", 0, opened.plan.n_rows)[numbers]
    x, sae = torch.from_numpy(rows).double(), saes["own"].sae
    codes = sae.encode_inference(seen)
    xhat = sae.decode(codes).double()
    for number in np.unique(document):  # each document's numbers are put back
        of_it = torch.from_numpy(document == number)
        whole = x[of_it]
        xhat[of_it] = xhat[of_it] / math.sqrt(D_MODEL) * whole.std() + whole.mean()
    r2 = 1 - (x - xhat).square().sum() / (x - x.mean(0)).square().sum()
    metrics = json.loads(folder_of("own").metrics.read_text())["metrics"]
    assert metrics["r2_pooled"]["value"] == pytest.approx(float(r2), abs=1e-5)
    assert metrics["l0"]["value"] == pytest.approx(float((codes.to_dense() > 0).sum(1).double().mean()), abs=0.01)
    assert json.loads(folder_of("topk").metrics.read_text())["n_rows"] == len(rows)


def test_a_trained_sae_takes_raw_rows_and_the_units_of_their_documents(both, store):
    _, saes = both
    opened = ActivationStore.open(store)
    ((rows, numbers),) = opened.in_order(SITE, "heldout", FILTERS, 10**6)
    x = torch.from_numpy(rows)
    document = torch.from_numpy(opened.token_map("document", 0, opened.plan.n_rows)[numbers])
    own, topk = saes["own"], saes["topk"]
    units = own.units_of(x, document)
    assert units is not None
    seen = wanted(by_document(opened), numbers)
    torch.testing.assert_close(units.apply(x).double(), seen, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(units.undo(units.apply(x)), x, rtol=1e-4, atol=1e-4)
    alone = torch.equal(own.encode(x, units).to_dense(), own.sae.encode_inference(units.apply(x)).to_dense())
    assert alone
    assert float((own.decode(own.encode(x, units), units) - x).square().sum() / (x - x.mean(0)).square().sum()) < 0.9
    for call in (lambda: own.encode(x), lambda: own.decode(own.encode(x, units))):
        with pytest.raises(ValueError, match="units_of"):
            call()
    assert (topk.units_of(x, document), topk.is_per_document) == (None, False)
    assert torch.equal(topk.encode(x, None).to_dense(), topk.encode(x, units).to_dense())
    assert own.provenance.config.training.input_scale == "per_document"
    assert own.record.input_scale == 1.0


def test_examples_show_the_values_of_the_scored_rows(both):
    latents = json.loads(folder_of("own").examples.read_text())["latents"]
    examples = [example for latent in latents for example in latent["examples"]]
    assert examples
    assert all(example["values"][example["index"]] == pytest.approx(example["value"], rel=1e-4) for example in examples)


def test_a_stop_changes_no_bit(make_config, monkeypatch):
    config = make_config({"topk": TOPK, "relu": RELU}, input_scale="per_document")
    train(config, show_progress=False)
    whole = hashes()
    again = make_config({"topk": TOPK, "relu": RELU}, "again", input_scale="per_document")
    with monkeypatch.context() as patch:
        train_until(again, patch, 7, before=False)
    (Path("runs/again/documents") / f"{SITE}.safetensors").unlink()  # measured anew: the same
    train(again, show_progress=False)
    assert hashes(Path("runs/again")) == whole


def test_the_store_is_measured_once(tmp_path, store, monkeypatch):
    opened, kept = ActivationStore.open(store), tmp_path / "documents" / "a.safetensors"
    first = document_units(opened, SITE, FILTERS, kept)
    measured = []
    real = units_module._measure
    monkeypatch.setattr(units_module, "_measure", lambda *a: measured.append(a) or real(*a))
    again = document_units(opened, SITE, FILTERS, kept)
    assert not measured
    assert np.array_equal(first.mean_R, again.mean_R)
    other = document_units(opened, SITE, Filters(), kept)
    assert len(measured) == 1, "other filters, other numbers"
    assert not np.allclose(first.mean_R, other.mean_R)
    document_units(opened, SITE, FILTERS, kept)
    data = bytearray(kept.read_bytes())
    data[-3] ^= 1
    kept.write_bytes(bytes(data))
    mended = document_units(opened, SITE, FILTERS, kept)
    assert len(measured) == 3
    assert np.array_equal(first.factor_R, mended.factor_R)


def test_the_order_of_a_shuffled_store_changes_nothing(tmp_path, store):
    source = ActivationStore.open(store)
    shuffled = shuffle_store(source, tmp_path / "shuffled", seed=3)
    numbers = np.arange(100, 160)
    found = document_units(shuffled, SITE, Filters(), tmp_path / "b").of(numbers, CPU)
    plain = document_units(source, SITE, Filters(), tmp_path / "a")
    document = shuffled.token_map("document", 100, 160)
    firsts = np.array([int(np.flatnonzero(source.token_map("document", 0, 4000) == d)[0]) for d in document])
    for one, other in zip(found, plain.of(firsts, CPU), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert len(set(document.tolist())) > 20


def test_numbers_far_from_zero_lose_nothing(tmp_path):
    rows = (1e4 + np.random.default_rng(0).standard_normal((40, 8))).astype(np.float32)
    documents = np.repeat([3, 9], 20)
    store = write_store(tmp_path / "far", {SITE: rows}, tokens={"document": documents})
    found = document_units(store, SITE, Filters(), tmp_path / "kept").of(np.arange(40), CPU)
    other = units_of_documents(torch.from_numpy(rows), torch.from_numpy(documents))
    for start in (0, 20):
        expected = math.sqrt(8) / rows[start : start + 20].astype(np.float64).std(ddof=1)
        assert float(found.factor_B[start]) == pytest.approx(expected, rel=1e-6)
        assert float(other.factor_B[start]) == pytest.approx(expected, rel=1e-6)


def test_a_document_whose_numbers_do_not_vary_is_refused(tmp_path):
    rows = np.ones((40, 8), np.float32)
    rows[:20] += np.arange(20)[:, None]
    store = write_store(tmp_path / "flat", {SITE: rows}, tokens={"document": np.repeat([3, 9], 20)})
    with pytest.raises(ConfigError, match=r"document 9 .* do not vary"):
        document_units(store, SITE, Filters(), tmp_path / "kept")
    with pytest.raises(ValueError, match="document 9: its numbers do not vary"):
        units_of_documents(torch.from_numpy(rows), torch.tensor([3] * 20 + [9] * 20))


def test_a_transcoder_is_refused():
    sae = {"architecture": "topk", "d_sae": 64, "k": 4, "pre_bias": False, "initial": {"encoder": "independent"}}
    variant = Variant.model_validate({"sae": sae, "objective": {"reconstruction": {}}, "reads": ["a"], "writes": ["b"]})
    variant.resolved(TrainingSettings(n_steps=9, warmup_steps=0, input_scale="none"))
    with pytest.raises(ValueError, match="per_document is of one site"):
        variant.resolved(TrainingSettings(n_steps=9, warmup_steps=0, input_scale="per_document"))
