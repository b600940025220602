"""One small run with codes, a kept unembedding and a hostile vocabulary, asked by all tests of this folder."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.reading.unembedding import UNEMBEDDING, UNEMBEDDING_TOKENS, Head
from strata_sae.stores import Token, tokens_json, write_store
from support import coded_run
from support.browsing import browser, watch
from support.evaluation_folder import D_MODEL

__all__ = ["browser", "watch"]
HOSTILE = {1: "<script>alert(1)</script>", 2: "=1+1", 3: "\u202egnp.exe", 4: "a\x00b", 5: "x" * 10_000}


@pytest.fixture(scope="session")
def asked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    rng = np.random.default_rng(1)
    head = Head(rng.standard_normal((60, D_MODEL)).astype(np.float16), np.ones(D_MODEL, np.float32), "rms", 1e-6, "")
    names = {number: Token(HOSTILE.get(number, f" v{number}").encode(), special=False) for number in range(60)}
    extras = {UNEMBEDDING: head.to_bytes(), UNEMBEDDING_TOKENS: tokens_json(names)}
    words = [HOSTILE.get(number, word) for number, word in enumerate(coded_run.WORDS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded_run, "write_store", partial(write_store, extras=extras))
        patch.setattr(coded_run, "WORDS", words)
        return coded_run.make(folder)
