"""The model is run over the units that are missing; a thread writes their rows while the next batch runs."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.inputs import Inputs, Recorded, Span, batches, groups, unit_spans
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.language_model.probe import check_isolation
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import (
    Plan,
    StoredArray,
    UnitWriter,
    commit_calibration,
    committed_columns,
    finish_store,
    is_calibrated,
    next_unit,
    recover,
    shard_records,
    unit_bytes,
    write_timing,
)
from strata_sae.stores.files.filesystem import FileSystem, missing_space
from strata_sae.stores.files.mounts import is_safe_to_map
from strata_sae.stores.files.places import LocalPlace

log = logging.getLogger(__name__)

_TORCH_TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float32, "int8": torch.float32}
"""What the writer gets rows as, by encoding. It makes float16 and int8 itself: in float32 no number has overflowed."""


def fill_and_finish(settings: ModelSettings, path: Path, plan: Plan, *, show_progress: bool) -> None:
    """Run the model over the units that are missing, and finish the store."""
    files = FileSystem()
    missing = recover(files, path, plan)
    if len(missing) < plan.n_units:
        log.info("%s: %d of %d units are there; going on", path, plan.n_units - len(missing), plan.n_units)
    if missing:
        if problem := missing_space(path, sum(unit_bytes(plan, unit) for unit in missing)):
            raise ConfigError(
                f"store.path: {path} {problem}; make room, then run the same command again: what is there is kept"
            )
        _fill(settings, files, path, plan, len(missing), show_progress)
    log.info("%s: finished, %s rows, store %s", path, f"{plan.n_rows:,}", finish_store(files, path, plan)[:12])


def _fill(
    settings: ModelSettings, files: FileSystem, path: Path, plan: Plan, n_missing: int, show_progress: bool
) -> None:
    rows_missing = min(n_missing * plan.rows_per_unit, plan.n_rows)
    capture = load(settings, list(plan.sites))
    if Recorded.of(plan).corpus.isolate_documents:
        check_isolation(capture)
    with Progress("extract", plan.n_rows, "token", start=plan.n_rows - rows_missing, shown=show_progress) as bar:
        filler = UnitFiller(files, path, plan, capture, bar.advance)
        taken: set[int] = set()
        while (unit := next_unit(path, plan, taken)) is not None:
            filler.fill(unit)
            taken.add(unit)
        filler.close()


class UnitFiller:
    """Runs the model over units; rows are written, and units committed, by one background thread."""

    def __init__(
        self, files: FileSystem, store: Path, plan: Plan, capture: Capture, advance: Callable[[int], None]
    ) -> None:
        """`advance` is told how many rows have been written."""
        self._files, self._store, self._plan, self._capture = files, store, plan, capture
        self._advance = advance
        place = LocalPlace(store, mapped=is_safe_to_map(store))
        self._tokens = {
            field: StoredArray(place, spec, shard_records(plan.version, spec, plan.files))
            for field, spec in plan.token_specs.items()
        }
        self._batch_tokens = Recorded.of(plan).model.batch_tokens
        if not is_calibrated(store, plan):
            commit_calibration(files, store, plan, self._calibration_rows())
        self._columns = committed_columns(store, plan)
        # At most two groups wait, so that with a slow disk the model waits and memory does not fill up.
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=2)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="strata-writer", daemon=True)
        self._thread.start()

    def fill(self, unit: int) -> None:
        """Run the model over a unit and hand its rows to the writer, which commits it when it is complete."""
        began = time.monotonic()
        start, stop = rows = self._plan.unit_rows(unit)
        writer = UnitWriter(
            self._files, self._store, self._plan, unit, self._tokens["flags"].rows(start, stop), self._columns
        )
        try:
            for group in groups(unit_spans(self._plan, self._token_map, rows), self._batch_tokens):
                self._put(partial(self._write, writer, self._run(group, rows)))
            self._put(partial(self._commit, writer, unit, began))
        except BaseException:
            if self._thread.is_alive():
                self._queue.put(None)
                self._thread.join()
            writer.close()
            raise

    def close(self) -> None:
        """Wait until everything handed over is committed. Raises what the writer raised."""
        self._put(None)
        self._thread.join()
        self._raise_failure()

    def _token_map(self, field: str, start: int, stop: int) -> np.ndarray:
        return self._tokens[field].rows(start, stop)

    def _calibration_rows(self) -> dict[str, np.ndarray]:
        """The rows that an int8 plan calibrates its columns on, [N, M] float32 by site."""
        assert self._plan.calibration is not None
        pieces: dict[str, list[np.ndarray]] = {site: [] for site in self._plan.sites}
        for start, stop in self._plan.calibration:
            for group in groups(unit_spans(self._plan, self._token_map, (start, stop)), self._batch_tokens):
                for site, rows_NM in self._run(group, (start, stop)).items():
                    pieces[site].append(rows_NM)
        return {site: np.concatenate(parts) for site, parts in pieces.items()}

    def _run(self, group: list[Span], rows: tuple[int, int]) -> dict[str, np.ndarray]:
        """Rows of a group of sequences, as stored, in plan order, those outside the unit left out."""
        first, last = group[0].start, group[-1].stop
        inputs = Inputs(self._plan, self._token_map, group)
        stored_type = _TORCH_TYPES[self._plan.encoding]
        out = {site: torch.empty((last - first, width), dtype=stored_type) for site, width in self._plan.sites.items()}
        for batch in batches(group, self._batch_tokens):
            for site, values_BSM in self._capture.forward(*inputs.batch(batch)).items():
                values_BSM = values_BSM.to(stored_type).cpu()
                for row, span in enumerate(batch):
                    out[site][span.start - first : span.stop - first] = values_BSM[row, : span.length]
        low, high = max(rows[0] - first, 0), min(rows[1], last) - first
        return {site: _as_stored(values_NM[low:high]) for site, values_NM in out.items()}

    def _write(self, writer: UnitWriter, piece: dict[str, np.ndarray]) -> None:
        try:
            for site, rows_NM in piece.items():
                writer.append(site, rows_NM)
        except BaseException:
            writer.close()
            raise
        self._advance(len(next(iter(piece.values()))))

    def _commit(self, writer: UnitWriter, unit: int, began: float) -> None:
        try:
            writer.commit()
        finally:
            writer.close()
        start, stop = self._plan.unit_rows(unit)
        write_timing(self._files, self._store, unit, stop - start, time.monotonic() - began)

    def _put(self, job: Callable[[], None] | None) -> None:
        self._raise_failure()
        self._queue.put(job)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    job()
                except BaseException as error:
                    self._failure = error


def _as_stored(values_NM: Tensor) -> np.ndarray:
    if values_NM.dtype == torch.bfloat16:
        return np.asarray(values_NM.view(torch.int16).numpy().view(np.uint16))
    return np.asarray(values_NM.numpy())
