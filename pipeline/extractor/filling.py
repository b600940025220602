"""Filling one unit: forward batches in, rows in plan order out, written by a thread while the next batch runs."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.extractor.sequences import Span, batches, document_spans, groups, packed_spans
from pipeline.language_model import Capture
from stores.filesystem import FileSystem
from stores.mapped import MappedArray
from stores.plan import Plan
from stores.timings import write_timing
from stores.units import UnitWriter

_TORCH_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class UnitFiller:
    """Runs the model over units; rows are written, and units committed, by one background thread."""

    def __init__(
        self, files: FileSystem, store: Path, plan: Plan, capture: Capture, advance: Callable[[int], None]
    ) -> None:
        """`advance` is told how many rows have been written."""
        self._files, self._store, self._plan, self._capture = files, store, plan, capture
        self._advance = advance
        self._tokens = {field: MappedArray(store, spec) for field, spec in plan.token_specs.items()}
        self._batch_tokens: int = plan.config["model"]["batch_tokens"]
        # Two groups wait at most, so a slow disk slows the model down instead of filling the memory.
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=2)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="strata-writer", daemon=True)
        self._thread.start()

    def fill(self, unit: int) -> None:
        """Run the model over a unit and hand its rows to the writer, which commits it when it is complete."""
        began = time.monotonic()
        start, stop = rows = self._plan.unit_rows(unit)
        writer = UnitWriter(self._files, self._store, self._plan, unit, self._tokens["flags"].rows(start, stop))
        try:
            for group in groups(self._spans(rows), self._batch_tokens):
                self._put(partial(self._write, writer, self._run(group, rows)))
            self._put(partial(self._commit, writer, unit, began))
        except BaseException:
            self._settle()
            writer.close()
            raise

    def close(self) -> None:
        """Wait until everything handed over is committed. Raises what the writer raised."""
        self._put(None)
        self._thread.join()
        self._raise_failure()

    def _spans(self, rows: tuple[int, int]) -> list[Span]:
        corpus = self._plan.config["corpus"]
        if corpus["mode"] == "packed":
            return packed_spans(self._plan.splits, corpus["context_length"], rows)
        position = self._tokens["position"]
        first = rows[0] - int(position.rows(rows[0], rows[0] + 1)[0])
        last = min(rows[1] + corpus["context_length"], self._plan.n_rows)
        beyond = np.flatnonzero(position.rows(rows[1], last) == 0)
        end = rows[1] + int(beyond[0]) if len(beyond) else last
        return document_spans(position.rows(first, end), first, rows)

    def _run(self, group: list[Span], rows: tuple[int, int]) -> dict[str, np.ndarray]:
        """Rows of a group of sequences, as stored, in plan order, those outside the unit left out."""
        first, last = group[0].start, group[-1].stop
        token_ids_N = torch.from_numpy(self._tokens["token_id"].rows(first, last).astype(np.int64))
        stored_type = _TORCH_TYPES[self._plan.encoding]
        out = {site: torch.empty((last - first, width), dtype=stored_type) for site, width in self._plan.sites.items()}
        for batch in batches(group, self._batch_tokens):
            ids_BS = torch.zeros((len(batch), batch[0].length), dtype=torch.int64)
            for row, span in enumerate(batch):
                ids_BS[row, : span.length] = token_ids_N[span.start - first : span.stop - first]
            for site, values_BSM in self._capture.forward(ids_BS).items():
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

    def _settle(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

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
