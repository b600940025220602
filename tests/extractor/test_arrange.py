import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.spool import Spool, arrange, sequence_hash
from strata_sae.stores.reading.masks import permutation

GOLDEN = [3, 1, 7, 6, 0, 4, 5, 2]
FIELDS = {"token_id": np.int32, "document": np.int64, "position": np.int32, "flags": np.uint8}


def settings(**changes):
    return CorpusSettings.model_validate({"sources": [{"kind": "python_docs"}], "n_tokens": None, **changes})


def made(lengths, documents=None):
    """A spool whose token ids say where they come from."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n_tokens = int(starts[-1])
    document = np.arange(len(lengths)) if documents is None else np.array(documents)
    token_id = np.arange(n_tokens, dtype=np.int32)
    sequence = np.array([sequence_hash(str(number).encode()) for number in document.tolist()], dtype="S16")
    return Spool(token_id, (token_id % 8).astype(np.uint8), starts, document.astype(np.int64), 0, {}, sequence, {})


def slowly(arrangement):
    """The token map, one row at a time."""
    spool = arrangement.spool
    for place in arrangement.order.tolist():
        for position in range(int(spool.starts[place + 1] - spool.starts[place])):
            at = int(spool.starts[place]) + position
            yield int(spool.token_id[at]), int(spool.document[place]), position, int(spool.flags[at])


def columns(blocks):
    return {field: np.concatenate([block[field] for block in blocks]) for field in FIELDS}


@st.composite
def spools(draw):
    lengths = draw(st.lists(st.integers(2, 12), min_size=2, max_size=25))
    repeats = draw(st.integers(0, len(lengths) - 2))
    first = list(range(len(lengths) - repeats))
    again = draw(st.lists(st.sampled_from(first), min_size=repeats, max_size=repeats))
    return made(lengths, first + again)


@given(spool=spools(), seed=st.integers(0, 5), shuffle=st.booleans(), rows_per_block=st.integers(1, 40))
def test_rows_are_a_permutation_split_by_document(spool, seed, shuffle, rows_per_block):
    arrangement = arrange(spool, settings(heldout_fraction=0.3, shuffle_documents=shuffle), seed)
    blocks = list(arrangement.blocks(rows_per_block))
    n_rows = len(spool.token_id)
    assert arrangement.n_rows == n_rows
    assert [len(block["token_id"]) for block in blocks[:-1]] == [rows_per_block] * (len(blocks) - 1)
    assert sum(len(block["token_id"]) for block in blocks) == n_rows
    rows = columns(blocks)
    assert {field: rows[field].dtype for field in FIELDS} == FIELDS
    assert list(zip(*(rows[field].tolist() for field in FIELDS), strict=True)) == list(slowly(arrangement))
    assert sorted(arrangement.order.tolist()) == list(range(len(spool.document)))
    (begin, boundary), (resumed, end) = arrangement.splits["train"], arrangement.splits["heldout"]
    assert (begin, resumed, end) == (0, boundary, n_rows)
    training, held_out = set(rows["document"][:boundary].tolist()), set(rows["document"][boundary:].tolist())
    assert training.isdisjoint(held_out)
    n_unique = len(set(spool.document.tolist()))
    assert len(held_out) == max(1, round(0.3 * n_unique))
    assert len(training) == n_unique - len(held_out)


def test_repeats_would_be_on_both_sides_if_places_were_split():
    spool = made([2] * 40, list(range(20)) * 2)
    arrangement = arrange(spool, settings(heldout_fraction=0.5), 0)
    boundary = arrangement.splits["train"][1] // 2
    assert set(spool.document[arrangement.order[:boundary]]).isdisjoint(spool.document[arrangement.order[boundary:]])
    # The control: the same number of places, chosen without regard to the documents.
    places = permutation(["document order", 0], 40)
    assert set(spool.document[places[:boundary]]) & set(spool.document[places[boundary:]])


def test_without_shuffling_both_splits_keep_corpus_order_and_the_same_documents_are_held_out():
    spool = made([3] * 30)
    plain, shuffled = (arrange(spool, settings(shuffle_documents=shuffle), 4) for shuffle in (False, True))
    assert plain.order[:27].tolist() == sorted(plain.order[:27].tolist())
    assert plain.order[27:].tolist() == sorted(plain.order[27:].tolist())
    assert plain.order[27:].tolist() != [27, 28, 29]
    assert set(plain.order[27:].tolist()) == set(shuffled.order[27:].tolist())
    assert plain.order.tolist() != shuffled.order.tolist()


def test_the_seed_decides():
    spool = made([3] * 30)
    orders = [arrange(spool, settings(), seed).order.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_the_order_is_fixed_for_all_time():
    # A change here changes every store: the same config would give another plan.
    assert arrange(made([3] * 8), settings(), 0).order.tolist() == GOLDEN


def test_held_out_share():
    assert arrange(made([2] * 10), settings(heldout_fraction=0.0), 0).splits == {"train": (0, 20), "heldout": (20, 20)}
    assert arrange(made([2] * 3), settings(heldout_fraction=0.01), 0).splits == {"train": (0, 4), "heldout": (4, 6)}


@pytest.mark.parametrize(("n_documents", "fraction"), [(1, 0.1), (3, 0.9)])
def test_nothing_left_to_train_on_is_an_error(n_documents, fraction):
    with pytest.raises(ConfigError, match=rf"heldout_fraction: {fraction} of {n_documents} document\(s\)"):
        arrange(made([2] * n_documents), settings(heldout_fraction=fraction), 0)
