"""Transcoders and crosscoders: they find what is planted, in raw units, and resume and share passes like SAEs."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.results import result_tables
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.trained import load
from strata_sae.pipeline.trainer import session
from strata_sae.pipeline.trainer.jobs import plan_jobs
from strata_sae.pipeline.trainer.passes import plan_passes
from strata_sae.pipeline.trainer.train import describe_training, train
from strata_sae.stores import ActivationStore, Filters
from strata_sae.stores.serving.batches import joint_mask
from support.planted_pair import (
    ALL,
    CROSSCODER,
    READ,
    RELU,
    TRANSCODER,
    WIDTHS,
    WRITTEN,
    directions,
    planted_data,
    planted_rows,
    planted_store,
)
from support.trained_run import hashes, train_until

FOLDERS = {"transcoder": f"{READ}-to-{WRITTEN}", "relu": f"{READ}-to-{WRITTEN}", "crosscoder": f"{READ}+{WRITTEN}"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Related rows, and the control."""
    folder = tmp_path_factory.mktemp("planted")
    return {related: planted_store(folder / str(related), related) for related in (True, False)}


@pytest.fixture
def make(stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def config(variants: dict[str, Any], name: str = "run", related: bool = True, **training: Any) -> RunConfig:
        return RunConfig.model_validate(planted_data(stores[related], variants, name, **training))

    return config


def folder_of(name: str, run: str = "run"):
    return RunFolder(Path("runs") / run).variant(f"{name}@{FOLDERS[name]}")


def found(W_dec: torch.Tensor, sites: list[str]) -> float:
    """Mean over planted latents of how well one decoder row has its direction, at every site that is written."""
    cosines = []
    for site, part in zip(sites, W_dec.split([WIDTHS[site] for site in sites], dim=1), strict=True):
        planted = torch.from_numpy(directions()[site]).float()
        cosines.append(planted @ torch.nn.functional.normalize(part, dim=1).T)
    return float(torch.stack(cosines).amin(0).amax(1).mean())


def test_what_is_planted_is_found_and_a_control_is_not(make):
    """Scores are of held-out raw rows; in the control the rows that are written belong to other tokens."""
    scores = {}
    for related in (True, False):
        run = f"related-{related}"
        config = make(
            {"transcoder": TRANSCODER, "crosscoder": CROSSCODER},
            run,
            related,
            n_steps=150,
            learning_rate=3e-2,
            log_every_steps=50,
            checkpoint_every_steps=150,
        )
        train(config, show_progress=False)
        evaluate(config)
        for name in ("transcoder", "crosscoder"):
            metrics = json.loads(folder_of(name, run).metrics.read_text())["metrics"]
            scores[name, related] = {key: entry["value"] for key, entry in metrics.items()}
            W_dec = load(folder_of(name, run), CPU).sae.W_dec
            sites = [WRITTEN] if name == "transcoder" else [*WIDTHS]
            scores[name, related]["found"] = found(W_dec, sites)
    assert scores["transcoder", True]["r2_pooled"] > 0.7 > 0.2 > scores["transcoder", False]["r2_pooled"]
    for name in ("transcoder", "crosscoder"):
        assert scores[name, True]["found"] > 0.9 > 0.8 > scores[name, False]["found"]
    for site in WIDTHS:  # the sites' energies differ by 10^4, yet both are explained
        assert scores["crosscoder", True][f"r2_pooled/{site}"] > 0.8
        assert scores["crosscoder", False][f"r2_pooled/{site}"] < scores["crosscoder", True][f"r2_pooled/{site}"] - 0.1
    assert "r2_pooled/" + READ not in scores["transcoder", True]
    page = write_report(Path("runs/related-True")).read_text(encoding="utf-8")
    assert FOLDERS["transcoder"] in page
    tables = result_tables(read_run(Path("runs/related-True")))
    labels = {site: [column.label for column in table.columns] for site, table in tables.items()}
    assert labels[FOLDERS["crosscoder"]][-2:] == [f"R², {WRITTEN}", f"R², {READ}"]
    assert labels[FOLDERS["transcoder"]] == labels[FOLDERS["crosscoder"]][:-2]
    assert "Two sparse coders were then trained from the store alone, without the model; all 2 finished." in page
    assert FOLDERS["crosscoder"].replace("+", "&#43;") in page or FOLDERS["crosscoder"] in page


@pytest.mark.parametrize("name", ALL)
def test_final_weights_work_on_raw_rows(make, monkeypatch, name):
    kept = {}
    real = session.finish
    monkeypatch.setattr(session, "finish", lambda trainee, *rest: (kept.update(trainee=trainee), real(trainee, *rest)))
    train(make({name: ALL[name]}), show_progress=False)
    scaled, record = kept["trainee"].sae, json.loads(folder_of(name).config.read_text())
    raw, rows = load(folder_of(name), CPU).sae, planted_rows()
    x_BM = torch.cat([torch.from_numpy(rows[part["site"]][:200]) for part in record["reads"]], dim=1)
    s_M = torch.cat([torch.full((part["width"],), part["scale"]) for part in record["reads"]])
    t_M = torch.cat([torch.full((part["width"],), part["scale"]) for part in record["writes"]])
    codes, expected = raw.encode_inference(x_BM), scaled.encode_inference(x_BM * s_M)
    factor = record["input_scale"]
    torch.testing.assert_close(codes.to_dense() * factor, expected.to_dense(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(raw.decode(codes) * t_M, scaled.decode(expected), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(raw.encode_inference(x_BM * s_M).to_dense(), expected.to_dense(), rtol=1e-2)  # control


def test_every_site_has_the_same_energy(make, stores):
    train(make({"crosscoder": CROSSCODER, "transcoder": TRANSCODER}, n_steps=1), show_progress=False)
    store = ActivationStore.open(stores[True])
    for name, n_sites in (("crosscoder", 2), ("transcoder", 1)):
        record = json.loads(folder_of(name).config.read_text())
        for part in record["reads"] + record["writes"]:
            mean_square = store.mean_square_norm(part["site"], "train", Filters(True, True))
            assert part["scale"] ** 2 * mean_square == pytest.approx(1 / n_sites)


def test_resumed_and_alone_are_bit_identical(make, stores, tmp_path_factory, monkeypatch):
    with contextlib.chdir(tmp_path_factory.mktemp("uninterrupted")):
        train(RunConfig.model_validate(planted_data(stores[True], ALL)), show_progress=False)
        uninterrupted = hashes()
    assert uninterrupted.keys() == ALL.keys()
    for save in (2, 7):
        train_until(make(ALL), monkeypatch, save, before=False)
    train(make(ALL), show_progress=False)
    assert hashes() == uninterrupted
    for name, variant in ALL.items():
        train(make({name: variant}, name), show_progress=False)
        assert hashes(Path("runs") / name)[name] == uninterrupted[name]
    train(make({"transcoder": {**TRANSCODER, "seed": 1}}, "seed"), show_progress=False)  # control
    assert hashes(Path("runs/seed"))["transcoder"] != uninterrupted["transcoder"]


def test_b_dec_starts_at_the_centre_of_the_target(make):
    sae = {**TRANSCODER["sae"], "initial": {"encoder": "independent", "b_dec": "mean"}}
    config = make({"transcoder": {**TRANSCODER, "sae": sae}}, n_steps=1, learning_rate=1e-12, batch_size=3000)
    train(config, show_progress=False)
    rows = planted_rows()
    store = ActivationStore.open(config.store_path())
    passing = next(numbers for _, numbers in store.in_order(WRITTEN, "train", Filters(True, True), 4096))
    mean_M = rows[WRITTEN][passing].mean(0)
    np.testing.assert_allclose(load(folder_of("transcoder"), CPU).sae.b_dec, mean_M, atol=0.03 * np.abs(mean_M).max())


def test_a_norm_limit_of_either_site_holds_for_both(make, stores):
    filters = {"drop_bos": True, "drop_special": True, "max_norm_multiple": 1.5}
    config = make({"crosscoder": CROSSCODER}, filters=filters, n_steps=5)
    train(config, show_progress=False)
    evaluate(config)
    store = ActivationStore.open(stores[True])
    mask = joint_mask([(store, site) for site in WIDTHS], "heldout", Filters(**filters))
    record = json.loads(folder_of("crosscoder").metrics.read_text())
    assert record["n_rows"] == mask.n_rows < store.mask(READ, "heldout", Filters(**filters)).n_rows


def test_dead_latents_start_again_at_rows_of_their_own_site(make):
    """After the very last step, so that they still lie there: W_enc at what is read of a token, W_dec at its target."""
    resampling = {"every_steps": 5, "until_step": None, "dead_after_steps": 1}
    variant = {**TRANSCODER, "sae": {**TRANSCODER["sae"], "d_sae": 200}, "resampling": resampling}
    train(make({"transcoder": variant}, n_steps=5), show_progress=False)
    line = json.loads(folder_of("transcoder").curves.read_text().splitlines()[-1])
    sae, rows = load(folder_of("transcoder"), CPU).sae, planted_rows()
    unit = {site: torch.nn.functional.normalize(torch.from_numpy(part), dim=1) for site, part in rows.items()}
    read = torch.nn.functional.normalize(sae.W_enc, dim=1) @ unit[READ].T > 0.9999
    written = torch.nn.functional.normalize(sae.W_dec, dim=1) @ unit[WRITTEN].T > 0.9999
    assert int((read & written).any(1).sum()) == line["resampled_latents"] > 10


def test_the_penalty_of_a_crosscoder_may_be_per_site(make):
    sae = {"architecture": "relu", "d_sae": 40, "pre_bias": False, "decoder": "free"}
    losses = []
    for per_site in (True, False):
        term = {"weight": 0.1, "per_site": per_site}
        variant = {**CROSSCODER, "sae": sae, "objective": {"reconstruction": {}, "l1_decoder_norm": term}}
        train(make({"crosscoder": variant}, str(per_site), n_steps=1), show_progress=False)
        line = json.loads(folder_of("crosscoder", str(per_site)).curves.read_text().splitlines()[-1])
        losses.append(line["loss/l1_decoder_norm"])
    assert 1.2 < losses[0] / losses[1] <= 2**0.5  # two parts of a row of norm 1


def test_what_it_takes_counts_both_widths(make):
    lines = describe_training(make({"transcoder": TRANSCODER, "crosscoder": CROSSCODER}, window_rows=1000)).splitlines()
    assert lines[0] == "2 of 2 SAEs are left to train"
    assert lines[1] == f"{READ}-to-{WRITTEN}: batches of 128 rows, seed 0, read once for transcoder"
    config = make({"transcoder": TRANSCODER, "crosscoder": CROSSCODER}, window_rows=1000)
    store = open_store(config)
    jobs = plan_jobs(config, store, RunFolder(config.run_path()))
    needed = [pass_.memory_bytes() for pass_ in plan_passes(jobs, store, config.training.memory_bytes, CPU)]
    window = 2 * 1000 * sum(store.at(site).plan.bytes_per_row(site) for site in WIDTHS)
    parameters = [40 * 16 + 40 * 12 + 40 + 12, 2 * 40 * 28 + 40 + 28]
    assert needed == [(4 * n + 128 * 40) * 4 + window for n in parameters]


FREE = {**RELU["sae"], "decoder": "free"}
PER_SITE = {"l1_decoder_norm": {"weight": 0.01, "per_site": True}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"writes": [READ], "reads": None}, "writes: needs reads beside it"),
        ({"reads": [READ], "writes": None}, "is an ordinary SAE; remove reads and writes"),
        ({"reads": [READ], "writes": [READ]}, "is an ordinary SAE"),
        ({"reads": [READ, READ], "writes": None}, "reads: a site stands twice"),
        ({"reads": ["nowhere"]}, r"variants.it.reads: 'nowhere' is not among store.sites"),
        ({"writes": ["nowhere"]}, r"variants.it.writes: 'nowhere' is not among store.sites"),
        ({"sae": {"architecture": "topk", "d_sae": 8, "k": 2}}, "need sae.pre_bias: false .* and sae.initial.encoder"),
        ({**RELU, "sae": {**RELU["sae"], "tied": True}}, "need sae.tied: false"),
        ({"sae": {"architecture": "identity", "d_sae": 16}, "objective": {"reconstruction": {}}}, "the identity is"),
        ({"reads": []}, "reads"),
        (
            {"sae": FREE, "objective": {"reconstruction": {}, **PER_SITE}},
            "l1_decoder_norm.per_site: needs several sites",
        ),
        (
            {"reads": [READ, WRITTEN], "writes": None, "sae": {**RELU["sae"], "architecture": "topk", "k": 2}}
            | {"sae": {**TRANSCODER["sae"], "decoder": "free", "rank_by": "contribution"}},
            "need sae.rank_by: pre_activation",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make({"it": {**TRANSCODER, **changes}})


def test_a_folder_name_that_is_too_long_is_refused(stores):
    long = ["a" * 120, "b" * 120]
    data = planted_data(stores[True], {"it" * 15: {**CROSSCODER, "reads": long}})
    data["store"]["sites"] += long
    with pytest.raises(ValueError, match="would have 272 characters, at most 255 make a name"):
        RunConfig.model_validate(data)
