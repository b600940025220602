"""A toy's rows as an ordinary store, with what is true of them in `extras/`."""

import logging
import tempfile

import numpy as np
import safetensors.numpy

from strata_sae.pipeline.config.corpus import StoreSettings
from strata_sae.pipeline.config.run import ToyConfig
from strata_sae.pipeline.config.toy import Hierarchy, ParentAlwaysOn, ToySettings
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.toy.generators import drawn, features
from strata_sae.pipeline.toy.hierarchy import NOTHING, padded
from strata_sae.stores import MANIFEST, ActivationStore, Token, layout, write_store
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.filesystem import make_folder

log = logging.getLogger(__name__)

MADE_OF = "toy.json"
"""Extra of the store: the section `toy`, and the seed."""
FEATURES = "toy.safetensors"
"""Extra of the store: `directions` float32 [F, d_model] and `parent` int32 [F], -1 for none; see `Features`."""
TRUTH = "truth.safetensors"
"""Extra of the store: `active` int32 [N, most of a row], the directions that each row is the sum of, -1 for none; where
they are multiplied by other numbers than 1, `amplitude` float32 of the same shape."""
DOCUMENT_ROWS = 256
"""Rows of a document (count); each split begins one. Rows do not depend on one another, but noise is by document."""
_BLOCK_ROWS = 2**16
"""Rows of one random stream (count); it decides the rows, so it never changes."""


def make_toy(config: ToyConfig) -> ActivationStore:
    """Write the store of a config's `toy` section; one that is finished stays as it is.

    The rows are a function of that section and the seed (numpy may change its normal numbers between versions; the
    hash of the rows names the store). Raises: ConfigError if `store.sites` names several; StoreError if something else
    lies there.
    """
    settings, path = config.toy, config.store_path()
    if len(config.store.sites) != 1:
        raise ConfigError(f"store.sites: a toy has one, got {', '.join(config.store.sites)}; name one, such as toy")
    (site,), n_rows = config.store.sites, settings.n_rows
    made_of = canonical_json({"seed": config.seed, **settings.model_dump(mode="json")})
    if (path / MANIFEST).is_file() and _holds(store := ActivationStore.open(path), site, made_of, config.store):
        log.info("%s: made already, skipped", path)
        return store
    known = features(settings, config.seed)
    make_folder(path.parent)
    # A file without a name, on the store's disk: it may be larger than memory, and nothing is left of it after a kill.
    with tempfile.TemporaryFile(dir=path.parent) as file:
        rows = np.memmap(file, np.float32, "w+", shape=(n_rows, settings.d_model))
        parts, amplitudes = [], []
        for start in range(0, n_rows, _BLOCK_ROWS):
            size = min(_BLOCK_ROWS, n_rows - start)
            made = drawn(settings, known, config.seed, start // _BLOCK_ROWS, size)
            rows[start : start + size] = made.rows
            parts.append(made.active)
            amplitudes += [] if made.amplitude is None else [made.amplitude]
        truth = {"active": _joined(parts, NOTHING)}
        if amplitudes:
            truth["amplitude"] = _joined(amplitudes, 0.0)
        tokens, vocabulary = _words(settings, truth["active"])
        n_train = n_rows - int(n_rows * settings.heldout_fraction)
        store = write_store(
            path,
            {site: rows},
            tokens={"token_id": tokens, "document": _documents(n_train, n_rows)},
            vocabulary=vocabulary,
            splits={"train": (0, n_train), "heldout": (n_train, n_rows)},
            encoding=config.store.encoding,
            compressor=config.store.compressor,
            chunk_bytes=config.store.chunk_bytes,
            shard_bytes=config.store.shard_bytes,
            extras={
                MADE_OF: made_of,
                FEATURES: safetensors.numpy.save(known.tensors()),
                TRUTH: safetensors.numpy.save(truth),
            },
        )
        del rows
    log.info("%s: %s rows of %s, store %s", path, f"{n_rows:,}", settings.kind, store.id[:16])
    return store


def _joined(parts: list[np.ndarray], with_what: float) -> np.ndarray:
    """Blocks one after the other, all as wide as the widest."""
    most = max(part.shape[1] for part in parts)
    return np.concatenate([padded(part, most, with_what) for part in parts])


def _documents(n_train: int, n_rows: int) -> np.ndarray:
    """The document of each row: none lies in two splits."""
    train_N, heldout_N = np.arange(n_train) // DOCUMENT_ROWS, np.arange(n_rows - n_train) // DOCUMENT_ROWS
    return np.concatenate([train_N, heldout_N + len(np.unique(train_N))])


def _words(settings: ToySettings, active: np.ndarray) -> tuple[np.ndarray, dict[int, Token]]:
    """A token for each row, which examples of a report show: of trees, what the row is made of; else one for all."""
    if isinstance(settings, ParentAlwaysOn):
        last_N, nothing, name = active[:, 1], "parent", "parent+child{}"
    elif isinstance(settings, Hierarchy):  # numbers rise with rarity
        last_N, nothing, name = active.max(axis=1, initial=NOTHING), "nothing", "f{}"
    else:
        return np.zeros(len(active), np.int32), {0: Token(b"row", special=False)}
    names = {int(found): nothing if found == NOTHING else name.format(found) for found in np.unique(last_N)}
    tokens = {found - NOTHING: Token(word.encode(), special=False) for found, word in names.items()}
    return (last_N - NOTHING).astype(np.int32), tokens


def _holds(store: ActivationStore, site: str, made_of: bytes, wanted: StoreSettings) -> bool:
    """Whether a store is the toy of these settings, in this form."""
    plan = store.plan
    sizes = layout(plan.sites, wanted.encoding, wanted.chunk_bytes, wanted.shard_bytes)
    form = (list(plan.sites), plan.encoding, plan.compressor, plan.rows_per_chunk)  # rows are mixed chunk by chunk
    return (
        form == ([site], wanted.encoding, wanted.compressor, sizes.rows_per_chunk)
        and MADE_OF in store.extras
        and store.extra(MADE_OF) == made_of
    )
