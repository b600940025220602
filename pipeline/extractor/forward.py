"""What the model is shown: the sequences of a unit, and a batch of them as tensors. Both follow from the plan alone."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.extractor.sequences import Span, document_spans, packed_spans
from strata_sae.pipeline.language_model import restarted_positions
from strata_sae.stores.files.canonical import as_int, as_object
from strata_sae.stores.format.plan import Plan

TokenMap = Callable[[str, int, int], np.ndarray]
"""`token_id`, `document`, `position` or `flags` of rows [start, stop)."""


def unit_spans(plan: Plan, token_map: TokenMap, rows: tuple[int, int]) -> list[Span]:
    """The sequences that touch `rows`, in plan order."""
    corpus = as_object(plan.config["corpus"])
    context_length = as_int(corpus["context_length"])
    if corpus["mode"] == "packed":
        return packed_spans(plan.splits, context_length, rows)
    first = rows[0] - int(token_map("position", rows[0], rows[0] + 1)[0])
    last = min(rows[1] + context_length, plan.n_rows)
    beyond = np.flatnonzero(token_map("position", rows[1], last) == 0)
    end = rows[1] + int(beyond[0]) if len(beyond) else last
    return document_spans(token_map("position", first, end), first, rows)


class Inputs:
    """The tokens of consecutive sequences, read once, as batches for `Capture.forward`."""

    def __init__(self, plan: Plan, token_map: TokenMap, spans: Sequence[Span]) -> None:
        self._first, last = min(span.start for span in spans), max(span.stop for span in spans)
        self._token_ids_N = torch.from_numpy(token_map("token_id", self._first, last).astype(np.int64))
        isolated = as_object(plan.config["corpus"]).get("isolate_documents", False)
        self._position_N = token_map("position", self._first, last) if isolated else None

    def batch(self, spans: Sequence[Span]) -> tuple[Tensor, Tensor | None]:
        """Token ids [B, S], padded on the right, and position ids [B, S] where documents are kept apart."""
        longest = max(span.length for span in spans)
        ids_BS = torch.zeros((len(spans), longest), dtype=torch.int64)
        for row, span in enumerate(spans):
            ids_BS[row, : span.length] = self._token_ids_N[span.start - self._first : span.stop - self._first]
        if self._position_N is None:
            return ids_BS, None
        return ids_BS, torch.stack([self._restarted(span, longest) for span in spans])

    def _restarted(self, span: Span, length: int) -> Tensor:
        assert self._position_N is not None
        # Not `position` itself: a document that began in the sequence before begins anew in this one.
        starts = np.flatnonzero(self._position_N[span.start - self._first : span.stop - self._first] == 0)
        return restarted_positions(starts.tolist(), length)
