"""Search: of every SAE the latents whose firing the tokens of a text tell best, by brute force over all rows."""

import numpy as np
import pytest

from strata_sae.pipeline.queries.labels import kept_labels
from strata_sae.pipeline.queries.opened import CodedRun, open_coded
from strata_sae.pipeline.queries.search import Hit, rows_holding, search
from support.brute_labels import dense, f1_of
from support.coded_run import RUN, make

QUERIES = ["w1", " w7", "W12", "<script>", "w", "nothing", "", "<bos>"]


@pytest.fixture(scope="module", params=["from the codes", "from files"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    make(folder := tmp_path_factory.mktemp("coded"))
    if request.param == "from files":
        run = open_coded(folder / RUN)
        for sae in run.saes.values():
            kept_labels(sae, run.text)
    return open_coded(folder / RUN)


def brute(run: CodedRun, query: str, n: int) -> list[Hit]:
    holds_N = np.isin(run.text.token_id, run.text.tokens.matching(query))
    hits = []
    for sae in run.saes.values():
        kept, values_NE = sae.kept(), dense(run, sae)
        of_sae = []
        for latent in range(sae.d_sae):
            fires_N = kept & (values_NE[:, latent] != 0)
            together = int((fires_N & holds_N).sum())
            if together:
                rows = int((holds_N & kept).sum())
                f1 = f1_of(fires_N, holds_N & kept)
                of_sae.append(Hit(sae.name, latent, f1, together, int(fires_N.sum()), rows))
        hits += sorted(of_sae, key=lambda hit: (-hit.f1, hit.latent))[:n]
    return sorted(hits, key=lambda hit: -hit.f1)


@pytest.mark.parametrize("query", QUERIES)
def test_hits_are_those_of_all_rows(run: CodedRun, query: str) -> None:
    for n in (1, 5, 1000):
        assert search(list(run.saes.values()), run.text, query, n) == brute(run, query, n)


def test_a_text_that_occurs_is_found_in_every_sae(run: CodedRun) -> None:
    hits = search(list(run.saes.values()), run.text, "w1", 3)
    assert {hit.sae for hit in hits} == set(run.saes)
    assert len(hits) == 6
    assert all(0 < hit.f1 <= 1 and hit.count <= min(hit.active, hit.rows) for hit in hits)


def test_rows_that_hold_a_text_are_counted(run: CodedRun) -> None:
    assert rows_holding(run.text, " w1") == (run.text.token_id == 1).sum()
    assert rows_holding(run.text, "nothing") == 0


def test_special_rows_are_no_part_of_the_population(run: CodedRun) -> None:
    """Every latent may fire on BOS, and training left it out: nothing is found."""
    assert rows_holding(run.text, "<bos>") == 40
    assert search(list(run.saes.values()), run.text, "<bos>", 3) == []
