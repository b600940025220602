"""The text around an example is text: rows that happen to lie beside it are not shown."""

from collections.abc import Callable
from pathlib import Path

import pytest

from strata_sae.pipeline.reading.context import example
from strata_sae.pipeline.runs.evaluation_records import Example
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.trained import TrainedSAE, load
from strata_sae.stores import ActivationStore, Filters
from strata_sae.stores.deriving.shuffle import shuffle_store
from support.evaluation_folder import D_MODEL, SITE, identity_weights, write_trained


@pytest.fixture
def store(make_store: Callable[..., Path]) -> ActivationStore:
    return ActivationStore.open(make_store(n_rows=740, sites={SITE: D_MODEL}))


@pytest.fixture
def trained(tmp_path: Path, store: ActivationStore) -> TrainedSAE:
    write_trained(tmp_path, "relu", store.id, {"architecture": "relu", "d_sae": 2 * D_MODEL}, identity_weights())
    return load(RunFolder(tmp_path).variant(f"relu@{SITE}"))


def shown(store: ActivationStore, trained: TrainedSAE, row: int) -> Example:
    return example([(store, SITE)], trained, Filters(), 0, row, value=1.0, n_around=5)


@pytest.mark.parametrize(
    ("row", "expected"), [(60, range(55, 66)), (39, range(37, 45)), (72, range(67, 74)), (0, range(6))]
)
def test_in_plan_order_a_row_has_its_document_around_it(
    store: ActivationStore, trained: TrainedSAE, row: int, expected: range
) -> None:
    found = shown(store, trained, row)
    token_N = store.token_map("token_id", expected.start, expected.stop)
    assert found.tokens == [store.vocabulary[token] for token in token_N.tolist()]
    assert found.index == row - expected.start
    assert (found.document, found.position) == (row // 37, row % 37)


def test_in_a_shuffled_store_a_row_stands_alone(store: ActivationStore, trained: TrainedSAE, tmp_path: Path) -> None:
    mixed = shuffle_store(store, tmp_path / "mixed", seed=0)
    same_document = 0
    for row in range(100):
        found = shown(mixed, trained, row)
        document_N = mixed.token_map("document", max(0, row - 5), row + 6)
        same_document += int((document_N == found.document).sum()) - 1
        assert len(found.tokens) <= 2
        assert found.document == int(mixed.token_map("document", row, row + 1)[0])
        assert found.tokens[found.index] == mixed.vocabulary[int(mixed.token_map("token_id", row, row + 1)[0])]
    assert same_document > 20, (
        "control: rows of the same document do lie nearby, and comparing documents would show them"
    )
