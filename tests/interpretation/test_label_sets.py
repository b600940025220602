"""The whole token label of a latent: found again by counting, and better than what people are shown of it."""

import contextlib

import numpy as np
import pytest

from strata_sae.pipeline.interpretation.label_sets import LabelSets
from strata_sae.pipeline.queries.label_files import N_NAMED
from strata_sae.pipeline.queries.labels import halves
from strata_sae.pipeline.queries.opened import CodedRun
from support import coded_run
from support.evaluation_folder import SITE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    folder = tmp_path_factory.mktemp("label_sets")
    coded_run.make(folder)
    with contextlib.chdir(folder):
        return coded_run.opened(folder)


def f1(run: CodedRun, name: str, latent: int, ids: frozenset[int], half: int) -> float:
    """Of a set of tokens in a half of the documents, by counting rows."""
    sae = run.saes[name]
    in_half_N = halves(sae, run.text) == half
    fires_N = np.zeros(len(in_half_N), bool)
    fires_N[sae.codes.rows_of(latent)[0]] = True
    named_N = np.isin(run.text.token_id, list(ids))
    hits = (fires_N & named_N & in_half_N).sum()
    return float(2 * hits / ((named_N & in_half_N).sum() + (fires_N & in_half_N).sum()))


@pytest.mark.parametrize("name", [f"{variant}@{SITE}" for variant in coded_run.SAES])
def test_a_set_has_the_f1_of_its_label_in_both_halves(name: str, run: CodedRun) -> None:
    labels = run.saes[name].labels
    assert labels is not None
    sets = LabelSets(run, run.saes[name])
    for latent in np.flatnonzero(np.isfinite(labels.f1)).tolist():
        ids = sets.of(latent)
        assert ids is not None
        assert len(ids) == labels.n_tokens[latent]
        assert f1(run, name, latent, ids, 0) == pytest.approx(labels.f1_fit[latent], abs=1e-6)
        assert f1(run, name, latent, ids, 1) == pytest.approx(labels.f1[latent], abs=1e-6)
        assert frozenset(labels.token_ids[latent].tolist()) - {-1} <= ids


def test_a_large_set_tells_better_than_the_tokens_that_are_named(run: CodedRun) -> None:
    name = f"topk@{SITE}"
    labels = run.saes[name].labels
    assert labels is not None
    large = np.flatnonzero(np.isfinite(labels.f1) & (labels.n_tokens > N_NAMED)).tolist()
    assert len(large) > 0
    for latent in large:
        assert f1(run, name, latent, frozenset(labels.token_ids[latent].tolist()), 0) < labels.f1_fit[latent]


def test_a_latent_without_a_label_has_no_set(run: CodedRun) -> None:
    sae = run.saes[f"wide@{SITE}"]
    labels = sae.labels
    assert labels is not None
    unlabelled = np.flatnonzero(~np.isfinite(labels.f1)).tolist()
    sets = LabelSets(run, sae)
    assert [sets.of(latent) for latent in unlabelled] == [None] * len(unlabelled)
    sae.labels = None
    assert sets.of(0) is None
    sae.labels = labels
