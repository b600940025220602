"""Sums over the rows of each document, of which intervals and paired differences are made."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.scored_rows import ScoredRows, TargetRows
from strata_sae.pipeline.runs.judging_records import DocumentSums


class Places(NamedTuple):
    """Rows of one document after the other, in the order of the rows. [D], one of each document."""

    places: np.ndarray
    """Of each document, its place among all of the population."""
    starts: np.ndarray
    """Its first row in the part."""

    def sums(self, values_B: Tensor) -> np.ndarray:
        """The sum of the values of each document."""
        return np.add.reduceat(values_B.cpu().numpy(), self.starts) if len(self.starts) else np.zeros(0)


class Documents:
    """The documents of a population in the order in which they come, and sums over their rows, whatever the SAE."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.first_rows: list[int] = []
        self.n_rows: list[int] = []
        self._place: dict[int, int] = {}
        self._square: list[float] = []
        self._sums: list[Tensor] = []

    def take(self, documents_B: np.ndarray, numbers_B: np.ndarray, rows: TargetRows) -> Places:
        """Take the first rows of a part in; rows of a document stand together."""
        starts = np.flatnonzero(np.diff(documents_B, prepend=-1))
        found = Places(np.zeros(len(starts), np.int64), starts)
        squares = found.sums(rows.square_B[: len(documents_B)])
        for number, start in enumerate(starts.tolist()):
            document, stop = int(documents_B[start]), int([*starts, len(documents_B)][number + 1])
            if document not in self._place:
                self._place[document] = len(self.ids)
                self.ids.append(document)
                self.first_rows.append(int(numbers_B[start]))
                self.n_rows.append(0)
                self._square.append(0.0)
                self._sums.append(rows.x_BM.new_zeros(rows.d_out))
            place = found.places[number] = self._place[document]
            self.first_rows[place] = min(self.first_rows[place], int(numbers_B[start]))
            self.n_rows[place] += stop - start
            self._square[place] += float(squares[number])
            self._sums[place] += rows.x_BM[start:stop].sum(dim=0)
        return found

    def centred_square(self) -> list[float]:
        """Of each document the sum of ||x - mean||^2, the mean being that of all rows of the population."""
        mean_M = torch.stack(self._sums).sum(dim=0) / sum(self.n_rows)
        mean_square = float(mean_M.square().sum())
        # Sums alone give it, so that nothing is read again when the mean is known. Rounding cannot make it negative.
        return [
            max(0.0, square - 2.0 * float(sum_M @ mean_M) + n_rows * mean_square)
            for n_rows, square, sum_M in zip(self.n_rows, self._square, self._sums, strict=True)
        ]


class DocumentErrors:
    """One SAE's sums over the rows of each document."""

    def __init__(self) -> None:
        self._error_square, self._active = np.zeros(0), np.zeros(0)

    def take(self, rows: ScoredRows, found: Places) -> None:
        """Take the rows of a part in."""
        if not len(found.places):
            return
        n_rows, n_missing = rows.codes.active_B.shape[0], max(0, int(found.places.max()) + 1 - len(self._active))
        self._error_square, self._active = (np.pad(of, (0, n_missing)) for of in (self._error_square, self._active))
        # A document's rows stand together in a part, so that no place comes twice.
        self._error_square[found.places] += found.sums(rows.error_square_B[:n_rows])
        self._active[found.places] += found.sums(rows.codes.active_B)

    def sums(self, documents: Documents) -> DocumentSums:
        """As they are recorded, in the order of the store."""
        order = sorted(range(len(documents.ids)), key=documents.first_rows.__getitem__)
        centred = documents.centred_square()
        return DocumentSums(
            documents=[documents.ids[place] for place in order],
            n_rows=[documents.n_rows[place] for place in order],
            error_square=[float(self._error_square[place]) for place in order],
            centred_square=[centred[place] for place in order],
            active=[float(self._active[place]) for place in order],
        )
