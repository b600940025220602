"""The latents that are explained: active often enough on both halves, drawn by seed, the first ones the same."""

from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.interpretation.choosing import chosen, labelled, token_label
from strata_sae.pipeline.queries.label_files import LEAST_ROWS
from strata_sae.pipeline.queries.opened import CodedRun
from support.brute_labels import dense
from support.coded_run import SITE
from support.interpreting import make


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    return make(tmp_path_factory.mktemp("interpreted"))


def test_only_latents_that_are_active_on_both_halves(run: CodedRun) -> None:
    sae = run.saes[f"wide@{SITE}"]
    labelled(run, sae, write=False)
    fires_NE = (dense(run, sae) != 0) & sae.kept()[:, None]
    odd_N = run.text.document % 2 == 1
    eligible = (fires_NE[odd_N].sum(axis=0) >= LEAST_ROWS) & (fires_NE[~odd_N].sum(axis=0) >= LEAST_ROWS)
    assert 0 < eligible.sum() < sae.d_sae  # some are left out
    assert sorted(chosen(sae, 1000, 0)) == np.flatnonzero(eligible).tolist()


def test_more_latents_begin_with_the_same_ones(run: CodedRun) -> None:
    sae = run.saes[f"topk@{SITE}"]
    labelled(run, sae, write=False)
    everything = chosen(sae, 1000, 3)
    for n in (1, 5, 20):
        assert chosen(sae, n, 3) == everything[:n]
    assert chosen(sae, 1000, 4) != everything
    assert sorted(chosen(sae, 1000, 4)) == sorted(everything)


def test_labels_are_made_where_there_are_none(tmp_path: Path) -> None:
    run = make(tmp_path)
    sae = run.saes[f"topk@{SITE}"]
    before = token_label(sae, chosen(sae, 1, 0)[0])
    for file in (sae.folder.token_labels, sae.folder.label_arrays, sae.folder.token_counts):
        file.unlink()
    for write in (False, True):
        again = type(sae)(sae.folder, sae.stores, sae.filters, sae.codes)
        with pytest.raises(ValueError, match="token labels come first"):
            chosen(again, 1, 0)
        labelled(run, again, write=write)
        assert token_label(again, chosen(again, 1, 0)[0]) == before
        assert again.folder.token_labels.exists() == write


def test_damaged_labels_are_made_again(tmp_path: Path) -> None:
    run = make(tmp_path)
    sae = run.saes[f"topk@{SITE}"]
    expected = chosen(sae, 10, 0)
    sae.folder.label_arrays.write_bytes(b"damaged")
    again = type(sae)(sae.folder, sae.stores, sae.filters, sae.codes)
    labelled(run, again, write=False)
    assert chosen(again, 10, 0) == expected
    assert sae.folder.label_arrays.read_bytes() == b"damaged"


def test_a_token_label_is_of_its_tokens(run: CodedRun) -> None:
    sae = run.saes[f"wide@{SITE}"]
    labelled(run, sae, write=False)
    assert sae.labels is not None
    latent = chosen(sae, 1, 0)[0]
    named = token_label(sae, latent)
    assert named == {token_id for token_id in sae.labels.token_ids[latent].tolist() if token_id >= 0}
    (silent,) = np.nonzero(np.isnan(sae.labels.f1))
    assert token_label(sae, int(silent[0])) is None
