"""Promoted and suppressed tokens: the brute-force product, its ties, and why there is none."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.queries.logits import logit_effects, token_text, why_none
from strata_sae.pipeline.queries.opened import CodedRun, open_coded
from strata_sae.pipeline.reading import unembedding
from strata_sae.pipeline.reading.unembedding import UNEMBEDDING, UNEMBEDDING_TOKENS, Head
from strata_sae.stores import Token, tokens_json, write_store
from support.coded_run import SITE, make, opened, rows, token_map
from support.evaluation_folder import D_MODEL, config_data, random_weights, write_trained

V = 300
NAME = f"topk@{SITE}"


def head(norm: str = "rms") -> Head:
    rng = np.random.default_rng(5)
    W_U = rng.standard_normal((V, D_MODEL)).astype(np.float16)
    W_U[200:] = W_U[:100]  # ties
    return Head(W_U, (1 + rng.random(D_MODEL)).astype(np.float32), norm, 1e-6, "")


def run_with(folder: Path, extras: dict[str, bytes]) -> Iterator[CodedRun]:
    tokens = {number: Token(f" t{number}".encode(), special=False) for number in range(40)}
    store = write_store(folder / "store", {SITE: rows()}, tokens=token_map(), vocabulary=tokens, extras=extras)
    settings = {"architecture": "topk", "d_sae": 48, "k": 4}
    write_trained(folder / "run", "topk", store.id, settings, random_weights(48, 0))
    data = config_data(folder / "store", {}, {})
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    with contextlib.chdir(folder):
        build_codes(folder / "run")
        yield open_coded(folder / "run")


@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
def test_tokens_are_those_of_the_whole_product(tmp_path: Path, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unembedding, "BLOCK_BYTES", 4 * D_MODEL * 7)  # many blocks
    kept = head(norm)
    names = {number: Token(f" v{number}".encode(), special=False) for number in range(V)}
    for run in run_with(tmp_path, {UNEMBEDDING: kept.to_bytes(), UNEMBEDDING_TOKENS: tokens_json(names)}):
        sae = run.saes[NAME]
        for latent in (0, 17, 47):
            direction_M = sae.W_dec[latent].astype(np.float64)
            if norm == "layer":
                direction_M = direction_M - direction_M.mean()
            expected_V = kept.W_U.astype(np.float64) @ (kept.norm_weight * direction_M)
            found = logit_effects(sae, latent, 25)
            assert found is not None
            for pairs, sign in ((found.promoted, -1), (found.suppressed, 1)):
                order = np.lexsort((np.arange(V), np.round(sign * expected_V, 4)))
                assert [round(value, 3) for _, value in pairs] == [round(expected_V[at], 3) for at in order[:25]]
                assert all(abs(expected_V[token] - value) < 1e-4 for token, value in pairs)
                values = [value for _, value in pairs]
                tied = [at for at in range(24) if values[at] == values[at + 1]]
                assert all(pairs[at][0] < pairs[at + 1][0] for at in tied)
        assert token_text(sae, 299) == " v299"
        assert token_text(sae, V) == f"<{V}>"


def test_a_store_without_it_says_so(tmp_path: Path) -> None:
    make(tmp_path)
    sae = opened(tmp_path).saes[NAME]
    assert logit_effects(sae, 0, 3) is None
    assert "store.unembedding: true" in (why_none(sae) or "")


def test_another_width_says_so(tmp_path: Path) -> None:
    narrow = Head(np.ones((3, 2), np.float16), np.ones(2, np.float32), "rms", 1e-6, "")
    for run in run_with(tmp_path, {UNEMBEDDING: narrow.to_bytes()}):
        assert logit_effects(run.saes[NAME], 0, 3) is None
        assert why_none(run.saes[NAME]) == f"W_U is 2 wide, and W_dec {D_MODEL}"


def test_a_site_off_the_stream_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strata_sae.pipeline.queries import logits

    make(tmp_path)
    sae = opened(tmp_path).saes[NAME]
    monkeypatch.setattr(logits, "STREAM", re.compile("nothing"))
    assert "no residual stream" in (why_none(sae) or "")
