"""What the curves say of the batches, and the loader's own log, which clocks may write and kills may tear."""

import json
from pathlib import Path

import pytest

from strata_sae.pipeline.reading import feed
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.train import train
from support.small_run import ALL, SITE, TOPK
from support.trained_run import RUN, curves, hashes, train_until

MIXING = {
    f"mixing/{name}" for name in ("documents", "documents_ratio", "positions", "positions_ratio", "variance_ratio")
}


def lines(run: Path = RUN) -> list[dict[str, float]]:
    return [json.loads(line) for line in RunFolder(run).loader(SITE).read_text(encoding="utf-8").splitlines() if line]


def test_every_line_of_the_curves_says_how_the_batch_was_mixed(make_config):
    train(make_config({"topk": TOPK}, window_rows=4096), show_progress=False)
    found = curves("topk")
    assert all(line.keys() >= MIXING for line in found)
    for name in ("mixing/documents_ratio", "mixing/positions_ratio"):
        assert sum(line[name] for line in found) / len(found) == pytest.approx(1, abs=0.05)


def test_a_tiny_window_shows(make_config):
    train(make_config({"topk": TOPK}, window_rows=64), show_progress=False)
    found = curves("topk")
    assert all(line["mixing/documents_ratio"] < 0.2 for line in found)
    assert sum(line["mixing/variance_ratio"] for line in found) / len(found) > 10
    assert lines()[0]["predicted_variance_ratio"] > 10


def test_the_log_covers_every_step_and_changes_no_bit(make_config, uninterrupted, monkeypatch):
    train_until(make_config(ALL), monkeypatch, 10, before=False)
    path = RunFolder(RUN).loader(SITE)
    path.write_bytes(path.read_bytes() + b'{"torn": ')
    train(make_config(ALL), show_progress=False)
    whole = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            whole.append(json.loads(line))
        except ValueError:
            assert line == '{"torn": '
    assert sum(line["steps"] for line in whole) >= 60
    assert {(line["batch_size"], line["seed"]) for line in whole} == {(64, 0)}
    assert all(line["seconds"] > 0 for line in whole)
    assert hashes() == uninterrupted


def test_rows_too_scattered_to_know_go_unmeasured(make_config, monkeypatch):
    monkeypatch.setattr(feed, "batch_mixing", lambda *_: None)
    train(make_config({"topk": TOPK}, n_steps=5), show_progress=False)
    assert not any(MIXING & line.keys() for line in curves("topk"))
    assert lines()[0]["predicted_variance_ratio"] is None
