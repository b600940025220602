"""Opening a store and reading rows, token map, statistics and summaries from it."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_object, parse_canonical
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.commits import read_listed, statistics_name
from strata_sae.stores.format.encodings import Columns, to_float32
from strata_sae.stores.format.plan import EXTRAS
from strata_sae.stores.format.statistics import median_norm
from strata_sae.stores.format.vocabulary import Token, read_tokens
from strata_sae.stores.front.listing import Summary, summarise
from strata_sae.stores.front.opening import Opened, open_at, opened_sites
from strata_sae.stores.reading.array import StoredArray
from strata_sae.stores.reading.masks import Filters, RowMask
from strata_sae.stores.reading.site_rows import SiteRows


class ActivationStore:
    """A finished, immutable store of activations."""

    def __init__(self, opened: Opened) -> None:
        self.path, self.plan, self.id = opened.folder, opened.plan, opened.contents.store_id
        self._place, self._hashes = opened.place, opened.contents.hashes
        self._tokens = {
            field: StoredArray(opened.place, spec, opened.contents.arrays[spec.path])
            for field, spec in self.plan.token_specs.items()
        }
        self._sites = opened_sites(opened)

    @classmethod
    def open(
        cls, where: Path | str, *, io: str = "auto", stage: Path | None = None, stage_sites: list[str] | None = None
    ) -> "ActivationStore":
        """Check the manifest and the size of every file; rows are then mapped, read or fetched as they are needed.

        Args:
            where: a folder, or a URL (s3://, gs://, az://, http://, https://, hf://), which the cache keeps parts of.
            io: `mmap`, `pread`, or `auto`: `pread` where a map may kill the process, that is on network file systems.
            stage: a folder on a nearer disk, to which the files of `stage_sites` are copied first.
        Raises: StoreError if the store is missing, unfinished or not what its manifest says.

        """
        return cls(open_at(where, io, stage, stage_sites))

    def values(self, site: str) -> SiteRows:
        """A site's rows [N, M]. Raises: StoreError naming the sites there are."""
        return self._site(site)[0]

    def rows(self, site: str, start: int, stop: int) -> np.ndarray:
        """Rows [n, M]: float32 (from int8 too), float16, or uint16 holding the bits of bfloat16."""
        values = self.values(site)
        pieces = []
        for chunk, some in self._site(site)[1].pieces(start, stop):
            coded, scales = values.coded(chunk)
            pieces.append(values.decoded(coded[some], None if scales is None else scales[some]))
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, values.shape[1]), np.float32)

    def coded_rows(self, site: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows [n, M] as they are moved about (int8 where it is stored), and int8's scales [n]."""
        values = self.values(site)
        pieces = [(values.coded(chunk), some) for chunk, some in self._site(site)[1].pieces(start, stop)]
        rows = np.concatenate([coded[some] for (coded, _), some in pieces])
        if not values.has_scales:
            return rows, None
        return rows, np.concatenate([scales[some] for (_, scales), some in pieces if scales is not None])

    def columns(self, site: str) -> Columns | None:
        """int8 only: what the site's columns are shifted and divided by."""
        return self.values(site).columns

    def norms(self, site: str, start: int, stop: int) -> np.ndarray:
        """Euclidean norms [n] of the rows as they were captured, float32."""
        return self._site(site)[1].rows(start, stop)

    def token_map(self, field: str, start: int, stop: int) -> np.ndarray:
        """`token_id`, `document`, `position` or `flags` of rows [start, stop)."""
        return self._tokens[field].rows(start, stop)

    @cached_property
    def tokens(self) -> dict[int, Token]:
        """What every token id that occurs stands for (see `vocabulary.read_tokens`). Raises: StoreError."""
        return read_tokens(self.path, self.plan)

    @cached_property
    def vocabulary(self) -> dict[int, str]:
        """Text of every token id that occurs, for people: U+FFFD where it holds part of a character."""
        return {number: token.text for number, token in self.tokens.items()}

    def text(self, start: int, stop: int) -> bytes:
        """Text of rows [start, stop): the bytes of their tokens, without special ones, one after another.

        Raises: StoreError if the range leaves the store, or a token has no entry.
        """
        numbers = self.token_map("token_id", start, stop).tolist()
        try:
            found = [self.tokens[number] for number in numbers]
        except KeyError as error:
            raise StoreError(f"{self.path}: {self.plan.vocabulary_file} does not say what token {error} is") from None
        return b"".join(token.data for token in found if not token.special)

    def extra(self, name: str) -> bytes:
        """A file of `extras/`. Raises: StoreError if there is none of that name, or it is not the plan's."""
        path = f"{EXTRAS}/{name}"
        if path not in self.plan.files:
            raise StoreError(f"{self.path}: has no {path}; it holds {', '.join(self.extras) or 'none'}")
        record = self.plan.files[path]
        file = self._place.open(path) if record.n_bytes else None  # no bytes cannot be mapped
        data = file.read(0, min(file.n_bytes, record.n_bytes)).tobytes() if file is not None else b""
        if sha256(data) != record.sha256:
            raise StoreError(f"{self.path}/{path}: its sha256 is not the plan's; the file is damaged, fetch it again")
        return data

    @property
    def extras(self) -> list[str]:
        """Names for `extra`."""
        return sorted(path.removeprefix(f"{EXTRAS}/") for path in self.plan.files if path.startswith(f"{EXTRAS}/"))

    def statistics(self, site: str) -> dict[str, Json]:
        """A site's statistics; see `statistics.merge`."""
        self._site(site)
        name = statistics_name(site)
        return parse_canonical(read_listed(self.path, name, self._hashes[name]), self.path / name)

    def mask(self, site: str, split: str, filters: Filters) -> RowMask:
        """The rows of a split that pass the filters."""
        if split not in self.plan.splits:
            raise StoreError(f"split {split!r} is unknown; this store has {', '.join(self.plan.splits)}")
        median = self._median_norm(site) if filters.max_norm_multiple is not None else 0.0
        norms = self._site(site)[1] if filters.max_norm_multiple is not None else None
        return RowMask(self._tokens["flags"], norms, self.plan, self.plan.splits[split], filters, median)

    def mean_square_norm(self, site: str, split: str, filters: Filters, mask: RowMask | None = None) -> float:
        """E||x||^2 over the rows of a split that pass the filters, or a narrower mask: float64, from the stored norms.

        Raises: StoreError if no row passes.
        """
        mask = mask or self.mask(site, split, filters)
        norms = self._site(site)[1]
        total = 0.0
        for block in mask.blocks.tolist():
            total += float(np.square(norms.chunk(block)[mask.rows_in(block)].astype(np.float64)).sum())
        if mask.n_rows == 0:
            raise StoreError(f"{self.path}: no row of split {split!r} passes the filters {filters.key()}")
        return total / mask.n_rows

    def in_order(
        self, site: str, split: str, filters: Filters, batch_size: int, mask: RowMask | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of a split in plan order, every row that passes once: rows as `rows` gives them, and numbers.

        `mask`: a narrower one than the site's own.
        """
        mask, values = mask or self.mask(site, split, filters), self.values(site)
        rows: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        held = 0
        for block in mask.blocks.tolist():
            local = mask.rows_in(block)
            coded, scales = values.coded(block)
            rows.append(values.decoded(coded[local], None if scales is None else scales[local]))
            numbers.append(local + block * self.plan.rows_per_chunk)
            held += len(local)
            while held >= batch_size:
                all_rows, all_numbers = np.concatenate(rows), np.concatenate(numbers)
                yield all_rows[:batch_size], all_numbers[:batch_size]
                rows, numbers, held = [all_rows[batch_size:]], [all_numbers[batch_size:]], held - batch_size
        if held:
            yield np.concatenate(rows), np.concatenate(numbers)

    def float_rows(self, site: str, start: int, stop: int) -> np.ndarray:
        """Rows [n, M] as float32."""
        return to_float32(self.rows(site, start, stop))

    def summary(self) -> Summary:
        """What the store is, as plain data: identity, model, sites, rows, bytes, and how fast it was filled."""
        return summarise(self.path, self.plan, self.id, self._hashes)

    def _median_norm(self, site: str) -> float:
        try:
            return median_norm(self.statistics(site))
        except (KeyError, ValueError):
            raise StoreError(
                f"{self.path}: site {site} has no median norm, because no row is free of flags; unset max_norm_multiple"
            ) from None

    def _site(self, site: str) -> tuple[SiteRows, StoredArray]:
        if site not in self._sites:
            raise StoreError(f"{self.path}: has no site {site!r}; it holds {', '.join(self._sites)}")
        return self._sites[site]


def open_store(where: Path | str, *, io: str = "auto") -> ActivationStore:
    """Open a finished store: rows of every site, tokens and text, mapped from disk or fetched as they are needed.

    Args:
        where: a folder, or a URL (s3://, gs://, az://, http://, https://, hf://datasets/).
        io: `mmap`, `pread`, or `auto`: `pread` where a map may kill the process, that is on network file systems.
    Raises: StoreError if the store is missing, unfinished or not what its manifest says.

    """
    return ActivationStore.open(where, io=io)


class Outliers(NamedTuple):
    """Of the rows of a split that pass the filters."""

    n_rows: int
    """How many rows there are."""
    n_outliers: int
    """How many of them have a norm above the multiple of the median norm."""
    square_share: float
    """Their share of the sum of ||x||^2 (0 to 1)."""


def outliers(store: ActivationStore, site: str, split: str, filters: Filters, multiple: float) -> Outliers | None:
    """The rows that `filters` keeps and `max_norm_multiple: multiple` would leave out.

    None where the store knows no median norm (every row is a special token) or no row passes. Reads 4 bytes a row.
    """
    statistics = store.statistics(site)
    mask = store.mask(site, split, filters)
    try:
        if not as_object(statistics["content"])["count"] or mask.n_rows == 0:
            return None
        limit = multiple * median_norm(statistics)
    except (KeyError, ValueError):
        raise StoreError(f"{store.path}: the statistics of {site} have no median norm; fetch them again") from None
    size, n_outliers, above, total = store.plan.rows_per_chunk, 0, 0.0, 0.0
    for block in mask.blocks.tolist():
        start = block * size
        norms_R = store.norms(site, start, min(start + size, store.plan.n_rows))[mask.rows_in(block)]
        squares_R, outlier_R = np.square(norms_R.astype(np.float64)), norms_R > limit
        n_outliers += int(outlier_R.sum())
        above += float(squares_R[outlier_R].sum())
        total += float(squares_R.sum())
    return Outliers(mask.n_rows, n_outliers, above / total if total > 0.0 else 0.0)
