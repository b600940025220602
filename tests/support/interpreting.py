"""A run of longer documents, and the truth about whatever `strata interpret` asks about its latents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from strata_sae.pipeline.config.interpretation import InterpretationSettings
from strata_sae.pipeline.endpoint.answers import Answers
from strata_sae.pipeline.endpoint.client import Endpoint
from strata_sae.pipeline.interpretation.choosing import chosen
from strata_sae.pipeline.interpretation.excerpts import Excerpts
from strata_sae.pipeline.interpretation.explaining import explanation_request
from strata_sae.pipeline.interpretation.scorers import SCORERS
from strata_sae.pipeline.interpretation.scorers.monosemanticity import rating_request
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from support import coded_run
from support.fake_endpoint import FakeEndpoint, Table

N_DOCUMENTS, DOCUMENT_ROWS, SHORT_ROWS = 240, 96, 20
EXPLAINER, SCORER = "explainer", "scorer"


def token_map() -> dict[str, np.ndarray]:
    """Documents of 96 rows, and of 20 every sixth, each of twelve words; 9 and 10 say the same. Each begins with BOS."""
    lengths = [SHORT_ROWS if number % 6 == 5 else DOCUMENT_ROWS for number in range(N_DOCUMENTS)]
    document_N = np.repeat(np.arange(N_DOCUMENTS), lengths)
    position_N = np.concatenate([np.arange(length) for length in lengths])
    rng = np.random.default_rng(7)
    words_DV = np.stack([rng.permutation(len(coded_run.WORDS) - 1)[:12] + 1 for _ in lengths])
    token_N = words_DV[document_N, rng.integers(0, 12, len(document_N))]
    token_N[document_N == 10] = token_N[document_N == 9]
    return {
        "token_id": np.where(position_N == 0, 0, token_N).astype(np.int32),
        "document": document_N.astype(np.int64),
        "position": position_N.astype(np.int32),
        "flags": (position_N == 0).astype(np.uint8),
    }


def rows() -> np.ndarray:
    """Each token has a direction, and noise of that length hides it now and then: latents miss some of their tokens."""
    rng, token_N = np.random.default_rng(3), token_map()["token_id"]
    direction_VM = rng.standard_normal((len(coded_run.WORDS), coded_run.D_MODEL))
    return (direction_VM[token_N] + 0.5 * rng.standard_normal((len(token_N), coded_run.D_MODEL))).astype(np.float32)


def make(folder: Path) -> CodedRun:
    """As `coded_run.make` makes one, of these documents, with two active latents a row."""
    saes = {name: settings | {"k": 2} for name, settings in coded_run.SAES.items()}
    with mock.patch.multiple(coded_run, token_map=token_map, rows=rows, SAES=saes):
        coded_run.make(folder)
    return coded_run.opened(folder)


def settings(**changes: object) -> InterpretationSettings:
    """Of six latents and every score."""
    return InterpretationSettings.model_validate({"explainer": EXPLAINER, "scorer": SCORER, "latents": 6} | changes)


def words_of(latent: int) -> str:
    """What the fake explainer says of a latent."""
    return f"what latent {latent} is about"


def truth_about(run: CodedRun, sae: CodedSAE, asked: InterpretationSettings) -> Table:
    """The truth about every request of an interpretation; its labels must be made."""
    table = Table()
    excerpts = Excerpts(run, sae, asked.seed)
    for latent in chosen(sae, asked.latents, asked.seed):
        material = excerpts.of(latent)
        request = explanation_request(EXPLAINER, material, asked.seed)
        rating = rating_request(SCORER, material, asked.seed)
        assert request is not None and rating is not None
        table.know(request, f"EXPLANATION: {words_of(latent)}")
        table.know(rating, "[4]")
        for name in asked.scores:
            if name in SCORERS:
                for one in SCORERS[name].requests(SCORER, words_of(latent), material, asked.seed):
                    truths = [trial.truth for trial in one.trials]
                    table.know(one.request, [truths[place % len(truths)] for place in range(5)])
    return table


@contextmanager
def endpoint_of(server: FakeEndpoint, asked: InterpretationSettings, folder: Path) -> Iterator[Endpoint]:
    """A client of a fake server that never waits. folder: of the kept answers."""
    at, answers = asked.model_copy(update={"base_url": server.url}), Answers(folder)
    try:
        yield Endpoint(at, answers, lambda line: None, pause=lambda stop, seconds: None)
    finally:
        answers.close()
