"""Whole sequences of held-out rows, from every document in turn, in whatever way a corpus is cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.intervention.intervene import intervene
from strata_sae.pipeline.intervention.sequences import batches_of, chosen_sequences, in_turn
from strata_sae.pipeline.language_model.inputs import Inputs, Span
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.runs.judging_records import ModelMetrics
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.stores import ActivationStore
from support.judged_run import STREAM, identity, judged_config, put
from support.tiny_models import D_MODEL


def turns(of_span: list[list[int]], lengths: list[int], max_rows: int | None) -> list[int]:
    return in_turn([np.array(documents) for documents in of_span], lengths, max_rows)


def test_documents_give_one_sequence_each_in_turn() -> None:
    of_span = [[0], [0], [0, 1], [1], [2], [2], [3]]
    assert turns(of_span, [4] * 7, None) == [0, 2, 4, 6, 3, 5, 1]  # document 0 has had two when its second turn comes
    assert turns(of_span, [4] * 7, 16) == [0, 2, 4, 6]
    assert turns(of_span, [4] * 7, 15) == [0, 2, 4]
    assert turns(of_span, [4] * 7, 3) == [0], "one at least"
    assert turns([[0], [1], [2]], [10, 3, 10], 14) == [0, 1], "one that does not fit is passed over"
    assert turns([[0], [1], [2]], [3, 10, 3], 7) == [0, 2]


def test_sequences_run_together_as_long_as_they_fit_with_padding() -> None:
    spans = [Span(0, 5), Span(5, 10), Span(10, 12), Span(12, 22), Span(22, 24)]
    assert batches_of(spans, 15) == [spans[:3], spans[3:4], spans[4:]]
    assert batches_of(spans, 1) == [[span] for span in spans]


CORPORA = {"packed": {}, "documents kept apart": {"isolate_documents": True}, "sequential": {"mode": "sequential"}}


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_clean_cross_entropy_is_that_of_the_tokens(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a float32 store, put back at the site, give what the model predicts from the tokens alone."""
    monkeypatch.chdir(tmp_path)
    changes: dict[str, Any] = CORPORA[corpus]
    config = judged_config(tmp_path, corpus=changes, evaluation={"with_model": {"max_rows": 200}})
    folder = put(config, "same", identity(D_MODEL), [STREAM])
    intervene(config)
    found = read_record(folder.model_metrics, ModelMetrics).record
    store = ActivationStore.open(config.store_path())
    chosen = chosen_sequences(store, 200)
    assert (found.n_sequences, found.n_sequence_rows) == (len(chosen.spans), chosen.n_rows)
    assert 0 < chosen.n_rows <= 200
    assert found.documents == chosen.documents.tolist()
    first, last = store.plan.splits["heldout"]
    assert found.n_heldout_documents == len(set(store.token_map("document", first, last).tolist()))
    whole = load(config.model, [STREAM], whole=True)
    expected = {document: [] for document in found.documents}
    for span in chosen.spans:
        ids_BS, position_BS = Inputs(store.plan, store.token_map, [span]).batch([span])
        log_p_SV = whole.run(ids_BS, position_BS).logits_BSV[0].double().log_softmax(-1)
        flags_S = store.token_map("flags", span.start, span.stop)
        document_S = store.token_map("document", span.start, span.stop)
        for s in range(span.length - 1):
            if flags_S[s] == 0:
                expected[int(document_S[s])].append(-float(log_p_SV[s, ids_BS[0, s + 1]]))
    assert found.document_predictions == [len(values) for values in expected.values()]
    sums = torch.tensor([sum(values) for values in expected.values()])
    torch.testing.assert_close(torch.tensor(found.clean_sums), sums, rtol=1e-5, atol=1e-5)
    assert found.forms["population"].ce_recovered.value == found.forms["saebench"].kl_recovered.value == 1.0
