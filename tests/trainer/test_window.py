"""A window that training.window_bytes makes smaller is said, with the mixing that is then served."""

import logging

import pytest

from strata_sae.pipeline.reading import feed
from strata_sae.pipeline.trainer.train import describe_training, train
from support.small_run import D_MODEL, SITE, TOPK

ROW_BYTES = 4 * D_MODEL
CAPPED = {"window_rows": 2048, "window_bytes": 2 * 256 * ROW_BYTES}


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (CAPPED, True),
        ({"window_rows": 256}, False),
        ({"window_rows": 2**40, "window_bytes": 2 * 4000 * ROW_BYTES}, False),  # no more rows than there are
    ],
)
def test_a_capped_window_is_said_at_train_and_dry_run(make_config, caplog, monkeypatch, training, said):
    real, served = feed.JoinedBatches, []

    def noted(*arguments, **named):
        served.append(real(*arguments, **named))
        return served[-1]

    monkeypatch.setattr(feed, "JoinedBatches", noted)
    config = make_config({"topk": TOPK}, n_steps=2, **training)
    line = (
        f"{SITE}: a window mixes 256 rows, not 2,048, since two windows of 64 bytes a row "
        "fill training.window_bytes (32,768)"
    )
    assert (line in describe_training(config)) is said
    with caplog.at_level(logging.INFO, logger="strata_sae"):
        train(config, show_progress=False)
    lines = [record.getMessage() for record in caplog.records if "a window mixes" in record.getMessage()]
    assert [text.startswith(line) for text in lines] == [True] * said
    if said:
        assert served[0].blocks_per_window == 256 // 64, "and that is what is served"
        (ratio,) = [float(text.split(" varies ")[1].split()[0]) for text in lines]
        assert ratio > 1.0
