"""Random rows of a finished store, compared with what the model gives now: this finds what no checksum can."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.provenance import model_changes, recorded_settings
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.inputs import Inputs, Recorded, Span, batches, groups, unit_spans
from strata_sae.pipeline.language_model.loading import describe, load
from strata_sae.pipeline.language_model.probe import SAME_ROW, check_isolation, check_sites
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import (
    ActivationStore,
    StoreError,
    dequantise,
    permutation,
    quantise,
    random_words,
    to_float32,
    to_stored,
)
from strata_sae.stores.files.canonical import Json

log = logging.getLogger(__name__)

# A row that is off by 4e-2 of its length, the most that is allowed, has a cosine of at least 0.9992.
SMALLEST_COSINE = 0.999
MAX_ROWS = 10_000
"""Each costs a forward pass over its sequence. With so many, a fault in one row of 1,000 is missed once in 22,000."""
_MANY_ROWS = 64
"""Of one unit."""
_ENCODING_TOLERANCE = {**SAME_ROW, "int8": 4e-2}


@dataclass(frozen=True)
class SiteCheck:
    """How the chosen rows of a site compare with the model's; a difference is stored minus computed again."""

    site: str
    n_rows: int
    n_equal: int
    """Rows equal to the last bit."""
    largest_difference: float
    """Of a single number."""
    largest_relative: float
    """|difference| / |row|."""
    smallest_cosine: float
    worst_row: int
    allowed_relative: float

    @property
    def passes(self) -> bool:
        """Whether every row is the model's, but for the last bits of its number format."""
        near = self.largest_relative <= self.allowed_relative and self.smallest_cosine > SMALLEST_COSINE
        return near or self.n_equal == self.n_rows

    def __str__(self) -> str:
        return (
            f"{self.site}: {self.n_equal} of {self.n_rows} rows equal to the last bit, difference at most "
            f"{self.largest_difference:.3g}, {self.largest_relative:.2g} of a row's length (allowed: "
            f"{self.allowed_relative:g}), cosine at least {self.smallest_cosine:.6f}"
        )


def spot_check(
    where: Path | str,
    *,
    n_rows: int = 64,
    seed: int = 0,
    model_path: str | None = None,
    device: str | None = None,
    exact: bool = False,
) -> list[str]:
    """Run the model again over the sequences that random rows lie in, and write at every site (`check_sites`).

    Args:
        n_rows: rows to choose, `MAX_ROWS` at most; of a smaller store, all.
        model_path: where the model is now; None: where the store's config says, for hub ids and relative paths.
        device: where to run it, the whole model, head included; None: where the extraction ran.
        exact: run the whole batches of the extraction: slower, and on the same kind of machine equal to the last bit.
    Returns: what was found, a line a site.
    Raises: StoreError naming site, row and cosine where a stored row is not the model's; ConfigError where the model
        cannot be loaded or does not compute with a site, or more rows are asked for than `MAX_ROWS`.

    """
    if not 1 <= n_rows <= MAX_ROWS:
        raise ConfigError(
            f"--rows: {n_rows:,} rows cannot be checked: at least 1 and at most {MAX_ROWS:,}, since each costs a "
            f"forward pass; `store verify --deep` reads every row"
        )
    store = ActivationStore.open(where)
    settings = _settings(store, {"path": model_path, "device": device})
    notes = _changes(store, settings)
    for note in notes:
        log.warning("%s", note)
    capture = load(settings, list(store.plan.sites), whole=True)
    check_sites(capture)
    if Recorded.of(store.plan).corpus.isolate_documents:
        check_isolation(capture)
    rows = _chosen(store.plan.n_rows, n_rows, seed)
    checks = [_compared(store, site, rows, fresh_NM) for site, fresh_NM in _fresh(store, capture, rows, exact).items()]
    if failed := [check for check in checks if not check.passes]:
        what = f"{store.path}: {len(failed)} of {len(checks)} sites hold rows that are not the model's:"
        lines = [
            f"site {check.site}, row {check.worst_row}: {_text(store, check.worst_row)}{check}" for check in failed
        ]
        advice = "another layer, shifted rows or another model are the usual causes; do not use these sites"
        raise StoreError("\n".join([what, *lines, *notes, advice]))
    return [*map(str, checks), *notes]


def _settings(store: ActivationStore, changes: dict[str, str | None]) -> ModelSettings:
    plan = store.plan
    if not {"model", "corpus"} <= plan.config.keys():
        raise StoreError(f"{store.path}: its config names no model and no corpus, so there is nothing to run again")
    if plan.lineage is not None and not plan.lineage.order_id:
        raise StoreError(
            f"{store.path}: a {plan.lineage.kind} without the whole texts its rows come from; "
            f"spot-check the store it was made from ({plan.lineage.store_id[:12]})"
        )
    return recorded_settings(store.path, plan, changes)


def _changes(store: ActivationStore, settings: ModelSettings) -> list[str]:
    if "#" in settings.path and not Path(settings.path).exists():
        raise ConfigError(
            f"{store.path}: its plan names the model {settings.path}, which is the name and a hash of the path it had; "
            f"say where it is now: --model PATH"
        )
    now = describe(settings, list(store.plan.sites)).provenance
    return [f"the model is not the recorded one: {change}" for change in model_changes(store.plan, now)]


def _chosen(n_total: int, n_rows: int, seed: int) -> list[int]:
    """Distinct row numbers, ascending."""
    key: list[Json] = ["spot check", seed]
    if n_total <= 16 * n_rows:
        return sorted(permutation(key, n_total)[:n_rows].tolist())
    drawn = random_words(key, 2 * n_rows) % np.uint64(n_total)  # too many rows to permute them
    return sorted(list(dict.fromkeys(drawn.tolist()))[:n_rows])


def _fresh(store: ActivationStore, capture: Capture, rows: list[int], exact: bool) -> dict[str, np.ndarray]:
    """The chosen rows by site, [n, M] float32, computed again."""
    fresh = {site: np.empty((len(rows), d_model), np.float32) for site, d_model in store.plan.sites.items()}
    place = {row: index for index, row in enumerate(rows)}
    for batch in _batches(store, rows, exact):
        inputs = Inputs(store.plan, store.token_map, batch)
        captured = capture.forward(*inputs.batch(batch))
        for number, span in enumerate(batch):
            wanted = [row for row in place if span.start <= row < span.stop]
            for site, values_BSM in captured.items():
                rows_NM = values_BSM[number, [row - span.start for row in wanted]]
                fresh[site][[place[row] for row in wanted]] = rows_NM.float().cpu().numpy()
    return fresh


def _batches(store: ActivationStore, rows: list[int], exact: bool) -> Iterator[list[Span]]:
    """What to run: the sequences of the rows one by one, or the batches that the extraction ran them in."""
    plan = store.plan
    batch_tokens = Recorded.of(plan).model.batch_tokens
    for unit in sorted({row // plan.rows_per_unit for row in rows}):
        bounds = plan.unit_rows(unit)
        here = [row for row in rows if bounds[0] <= row < bounds[1]]
        # A span costs one read; for many rows, reading all spans of the unit at once is cheaper.
        whole = exact or len(here) > _MANY_ROWS
        if whole:
            spans = unit_spans(plan, store.token_map, bounds)
        else:
            spans = sorted({span for row in here for span in unit_spans(plan, store.token_map, (row, row + 1))})
        formed = (batch for group in groups(spans, batch_tokens) for batch in batches(group, batch_tokens))
        for batch in formed if exact else ([span] for span in spans):
            if any(span.start <= row < span.stop for span in batch for row in here):
                yield batch


def _compared(store: ActivationStore, site: str, rows: list[int], fresh_NM: np.ndarray) -> SiteCheck:
    plan = store.plan
    stored_NM = np.concatenate([store.float_rows(site, row, row + 1) for row in rows])
    columns = store.columns(site)
    if columns is not None:
        expected_NM = dequantise(*quantise(fresh_NM, columns), columns)
    else:
        expected_NM = to_float32(to_stored(fresh_NM, plan.encoding, site, 0))
    difference_NM = stored_NM.astype(np.float64) - expected_NM
    stored_N, expected_N = (np.linalg.norm(rows_NM.astype(np.float64), axis=1) for rows_NM in (stored_NM, expected_NM))
    tiny = np.finfo(np.float32).tiny
    relative_N = np.linalg.norm(difference_NM, axis=1) / np.maximum(expected_N, tiny)
    dots_N = np.einsum("nm,nm->n", stored_NM, expected_NM, dtype=np.float64)
    cosine_N = np.where(relative_N == 0, 1.0, dots_N / np.maximum(stored_N * expected_N, tiny))
    dtype = Recorded.of(plan).model.dtype
    return SiteCheck(
        site=site,
        n_rows=len(rows),
        n_equal=int((stored_NM == expected_NM).all(axis=1).sum()),
        largest_difference=float(np.abs(difference_NM).max()),
        largest_relative=float(relative_N.max()),
        smallest_cosine=float(cosine_N.min()),
        worst_row=rows[int(relative_N.argmax())],
        allowed_relative=max(SAME_ROW[dtype], _ENCODING_TOLERANCE[plan.encoding]),
    )


def _text(store: ActivationStore, row: int) -> str:
    token = int(store.token_map("token_id", row, row + 1)[0])
    return f"(token {store.vocabulary.get(token, '?')!r}) "
