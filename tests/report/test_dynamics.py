"""Everything that training logs reaches the page: the data of its figures, a panel, and the choice of curves."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.report import dynamics
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.results import CURVE_DEFINITIONS
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import read_lines
from strata_sae.pipeline.runs.records import CurveLine
from strata_sae.pipeline.trainer.train import train
from support.made_up_records import write_lines
from support.page_parser import Page
from support.sealing import seal
from support.small_run import BATCH_TOPK, SITE, run_data, store_for_training

RELU = {"architecture": "relu", "d_sae": 64}
WATCH = {"watch": [[3, 17], [3, 40]]}
VARIANTS: dict[str, Any] = {
    "progressive": {
        "sae": {"architecture": "topk", "d_sae": 64, "k": {"start": 8, "end": 4}},
        "objective": {
            "reconstruction": {},
            "aux_k": {},
            "ort_sae": {"chunk_size": 32},
            "orthogonality": {
                "weight": {"shape": "power", "start": 0.1, "end": 0.0},
                "threshold": {"start": 0.1, "end": 0.0},
                **WATCH,
            },
        },
        "resampling": {"every_steps": 20, "until_step": 40, "dead_after_steps": 10},
    },
    "left_out": {
        "sae": {"architecture": "topk", "d_sae": 64, "k": 4},
        "objective": {
            "reconstruction": {},
            "orthogonality": {"weight": 0.0, "shape": "sigmoid_co_active", "on": "decoder", **WATCH},
        },
    },
    "activations": {
        "sae": RELU,
        "objective": {
            "reconstruction": {},
            "p_anneal": {"weight": 0.05},
            "orthogonality": {"weight": 0.1, "on": "activations", "from_progress": 0.25, **WATCH},
        },
    },
    "weighted": {"sae": RELU, "objective": {"reconstruction": {}, "frequency_weighted_lp": {"weight": 0.05}}},
    "lp": {"sae": RELU, "objective": {"reconstruction": {}, "lp": {"weight": 0.05}}},
    "two_child": {
        "sae": {"architecture": "two_child_topk", "d_sae": 63, "k": 4},
        "objective": {"reconstruction": {}, "two_child_cosine": {"weight": 0.1}},
    },
    "batch": BATCH_TOPK,
}
"""Between them, every monitor there is."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("dynamics")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store = store_for_training(made / "store", n_rows=1500)
    config = RunConfig.model_validate(run_data(store, VARIANTS, calibration_rows=128, window_rows=512))
    with contextlib.chdir(made):
        train(config, show_progress=False)
    yield made / "runs/run"
    torch.set_num_threads(threads)


def lines_of(folder: Path, variant: str) -> list[CurveLine]:
    return read_lines(RunFolder(folder).variant(f"{variant}@{SITE}").curves, CurveLine)


def data_of(folder: Path) -> tuple[Page, dict[str, Any]]:
    page = Page(write_report(folder))
    (data,) = [json.loads(text) for _, attrs, text in page.raw if attrs.get("type") == "application/json"]
    return page, data


def test_every_monitor_reaches_the_page(folder):
    page, data = data_of(folder)
    options = {attrs.get("value") for tag, attrs in page.elements if tag == "option"}
    panels = {attrs["data-panel"] for _, attrs in page.elements if "data-panel" in attrs}
    assert panels == {panel["key"] for panel in data["panels"]}
    seen = set()
    for variant in VARIANTS:
        sae, lines = data["sites"][SITE][variant], lines_of(folder, variant)
        assert len(lines) == 13
        drawn = {quantity for entries in sae["panels"].values() for _, quantity in entries}
        for name in {name for line in lines for name in line.numbers()} - {"step", "rows"}:
            points = [(line.step, value) for line in lines if (value := line.value(name)) is not None]
            if not points:
                continue
            assert sae["series"][name]["step"] == [step for step, _ in points], name
            assert sae["series"][name]["value"] == pytest.approx([value for _, value in points], rel=1e-5), name
            assert name in options
            in_panel = name in drawn
            defined = any(re.fullmatch(pattern, name) for pattern in (*dynamics.DEFINITIONS, *CURVE_DEFINITIONS))
            assert defined or not in_panel, f"{name} is drawn, and the page does not say what it is"
            constant = name.endswith("/weight") and {value for _, value in points} == {1.0}
            assert in_panel != bool(constant or dynamics.IN_OTHER_FIGURES.fullmatch(name)), name
            seen.add(name)
    kinds = {re.sub(r"\d+_\d+", "pair", name) for name in seen}
    assert kinds >= {
        "orthogonality/c_pair", "orthogonality/cos_pair", "orthogonality/correlation_pair", "orthogonality/threshold",
        "orthogonality/weight", "orthogonality/competing_pairs", "orthogonality/mean_abs_cos",
        "orthogonality/mean_abs_product", "orthogonality/share_left_out", "orthogonality/gradient_share",
        "gradient_norm/orthogonality", "gradient_norm/reconstruction", "reconstruction/loss_share", "loss/ort_sae",
        "ort_sae/mean_max_cos", "decoder_max_cosine_mean", "lp/p", "p_anneal/p", "p_anneal/scale", "learning_rate",
        "frequency_weighted_lp/lambda_mean", "two_child_cosine/child_parent_ratio", "threshold", "gradient_norm",
        "resampled_latents", "mixing/documents",
    }  # fmt: skip
    assert panels == {panel.key for panel in (*dynamics.PANELS, dynamics.OTHERS)} | dynamics.SNAPSHOTS.keys()


def test_snapshots_reach_the_page_as_they_were_written(folder):
    page, data = data_of(folder)
    for variant in VARIANTS:
        found = data["sites"][SITE][variant]
        written = [(line.step, line.similarity) for line in lines_of(folder, variant) if line.similarity is not None]
        assert [step for step, _ in written] == [15, 30, 45, 60]
        assert found["snapshots"] == [{"step": step, **similarity.model_dump()} for step, similarity in written]
        assert ("matrix" in found["panels"]) == (
            "orthogonality" in VARIANTS[variant]["objective"] and variant != "batch"
        )
        assert {"pairs", "largest"} <= found["panels"].keys()
    assert all(title in page.text for title in dynamics.SNAPSHOTS.values())


def test_names_are_defined(folder):
    text = data_of(folder)[0].text
    for name, definition in dynamics.DEFINITIONS.values():
        assert name in text
        assert definition.split(",")[0].split("'")[0].replace(" - ", " \N{MINUS SIGN} ") in text


def test_control_a_new_monitor_is_drawn_though_no_panel_knows_it(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    place = RunFolder(tmp_path / "run").variant(f"lp@{SITE}")
    write_lines(place.curves, [line.with_further({"new_term/speed": 2.5}) for line in lines_of(folder, "lp")])
    seal(place.path)
    before, after = (data_of(run)[1]["sites"][SITE]["lp"] for run in (folder, tmp_path / "run"))
    assert "new_term/speed" not in before["series"]
    assert after["series"]["new_term/speed"]["value"] == [2.5] * 13
    assert ["new_term/speed", "new_term/speed"] in after["panels"]["others"]


def test_lines_are_thinned_and_the_last_point_stays():
    lines = [(step, 1 / (step + 1)) for step in range(1000)]
    thinned = dynamics._series(lines)
    assert len(thinned["step"]) <= dynamics.MAX_PANEL_POINTS
    assert thinned["step"][-1] == 999
    assert thinned["value"][-1] == 0.001
