"""A store of isolated documents: packed as ever, and every document's rows are those of the document alone."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import strata_sae.pipeline.extractor.filling as stage
import strata_sae.pipeline.extractor.plan as plan_step
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.config.run import differences
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.pipeline.language_model.inputs import packed_spans
from strata_sae.pipeline.language_model.loading import load
from strata_sae.stores import ActivationStore
from support.extraction import extraction_config


def stored(folder: Path, name: str, **corpus: object) -> tuple[RunConfig, ActivationStore]:
    config = extraction_config(folder, corpus={"n_tokens": 900} | corpus, store={"path": str(folder / name)})
    extract(config, show_progress=False)
    return config, ActivationStore.open(config.store_path())


def pieces(store: ActivationStore, context_length: int) -> list[tuple[int, int]]:
    """Rows of each document's part of each sequence: what is run alone."""
    starts = np.flatnonzero(store.token_map("position", 0, store.plan.n_rows) == 0).tolist()
    spans = packed_spans(store.plan.splits, context_length, (0, store.plan.n_rows))
    edges = sorted({*starts, *(span.start for span in spans), store.plan.n_rows})
    return list(itertools.pairwise(edges))


def test_every_piece_of_a_document_is_stored_as_it_is_alone(tmp_path: Path) -> None:
    config, isolated = stored(tmp_path, "isolated", isolate_documents=True)
    _, joined = stored(tmp_path, "joined")
    capture = load(config.model, config.store.sites)
    differing = 0
    for start, stop in pieces(isolated, config.corpus.context_length):
        token_ids = torch.from_numpy(isolated.token_map("token_id", start, stop).astype(np.int64))
        for site, alone_BSM in capture.forward(token_ids[None]).items():
            rows_NM = isolated.float_rows(site, start, stop)
            np.testing.assert_allclose(rows_NM, alone_BSM[0].numpy(), rtol=0, atol=2e-5)
            differing += not np.allclose(joined.float_rows(site, start, stop), alone_BSM[0].numpy(), atol=1e-3)
    assert differing > 10, "the comparison must see documents that see each other"
    for field in ("token_id", "document", "position", "flags"):
        assert np.array_equal(isolated.token_map(field, 0, 900), joined.token_map(field, 0, 900)), field
    position_N = isolated.token_map("position", 0, 900)
    continued = [start for start, _ in pieces(isolated, config.corpus.context_length) if position_N[start] > 0]
    assert continued, "a document that goes on in the next sequence keeps its place in the token map"
    assert isolated.plan.config["corpus"]["isolate_documents"] is True


def test_units_cut_anywhere_hold_the_same_rows(tmp_path: Path) -> None:
    _, many = stored(tmp_path, "many", isolate_documents=True, context_length=24)
    whole = extraction_config(
        tmp_path,
        corpus={"n_tokens": 900, "isolate_documents": True, "context_length": 24},
        store={"path": str(tmp_path / "one"), "shard_bytes": 2**20},
    )
    extract(whole, show_progress=False)
    one = ActivationStore.open(tmp_path / "one")
    assert (many.plan.n_units, one.plan.n_units) == (4, 1)
    for site in many.plan.sites:
        np.testing.assert_allclose(many.float_rows(site, 0, 900), one.float_rows(site, 0, 900), rtol=0, atol=2e-5)


def test_the_plan_says_what_a_document_sees(tmp_path: Path) -> None:
    isolated = extraction_config(tmp_path, corpus={"n_tokens": 900, "isolate_documents": True})
    assert "none of which sees another" in describe_plan(isolated, show_progress=False)
    joined = extraction_config(tmp_path, corpus={"n_tokens": 900})
    assert "as one text" in describe_plan(joined, show_progress=False)


def test_a_model_that_cannot_isolate_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = extraction_config(tmp_path, corpus={"isolate_documents": True, "n_tokens": 900})
    monkeypatch.setattr("strata_sae.pipeline.language_model.loading.isolates", lambda *_: False)
    monkeypatch.setattr(plan_step, "spool_documents", lambda *_: pytest.fail("the corpus was read"))
    with pytest.raises(ConfigError, match=r"corpus\.isolate_documents: true is not supported by LlamaForCausalLM"):
        extract(config, show_progress=False)
    assert not config.store_path().exists()


def test_the_loaded_model_is_probed_before_a_row_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = extraction_config(tmp_path, corpus={"isolate_documents": True, "n_tokens": 900})
    monkeypatch.setattr("strata_sae.pipeline.language_model.capture.isolating_arguments", lambda *_: {})
    monkeypatch.setattr(stage, "UnitFiller", lambda *_: pytest.fail("filling began"))
    with pytest.raises(ConfigError, match="lets packed documents see each other"):
        extract(config, show_progress=False)


def test_isolation_is_for_packed_documents() -> None:
    fields = {"sources": [{"kind": "python_docs"}], "n_tokens": 100, "isolate_documents": True}
    assert CorpusSettings.model_validate(fields).mode == "packed"
    with pytest.raises(ValueError, match="isolate_documents: true needs mode: packed, got sequential"):
        CorpusSettings.model_validate(fields | {"mode": "sequential"})


def test_a_store_planned_before_there_was_isolation_is_still_its_configs_store(tmp_path: Path) -> None:
    config, _ = stored(tmp_path, "store")
    extraction = config.extraction()
    del extraction["corpus"]["isolate_documents"]
    assert differences(extraction, config.extraction()) == []
    isolated = extraction_config(tmp_path, corpus={"n_tokens": 900, "isolate_documents": True})
    with pytest.raises(ConfigError, match="isolate_documents: was false, is true"):
        extract(isolated, show_progress=False)
