"""The scored rows themselves, whatever the SAE."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strata_sae.stores import ActivationStore


class Population:
    """How many rows were scored, of how many documents, and how much of the squared norm few of them carry."""

    def __init__(self, store: ActivationStore) -> None:
        self.store = store
        self.n_rows = 0
        self._documents: set[int] = set()
        self._squares: list[Tensor] = []

    def update(self, x_BM: Tensor, row_numbers_B: Tensor) -> None:
        """Take one batch in; batches come in plan order."""
        numbers = row_numbers_B.cpu().numpy()
        document_B = self.store.token_map("document", int(numbers[0]), int(numbers[-1]) + 1)[numbers - numbers[0]]
        self._documents.update(np.unique(document_B).tolist())
        self.n_rows += len(x_BM)
        self._squares.append(x_BM.double().square().sum(dim=1).float().cpu())

    def record(self) -> dict[str, Any]:
        """The facts that go into metrics.json. `top_percent_square_share`: share of the sum of ||x||^2 in the largest
        1 % of the rows; near 1, pooled numbers describe those rows alone.
        """
        squares_N = torch.cat(self._squares).double().sort(descending=True).values
        top, total = float(squares_N[: math.ceil(0.01 * self.n_rows)].sum()), float(squares_N.sum())
        share = top / total if 0.0 < total < math.inf else None
        return {"n_rows": self.n_rows, "n_documents": len(self._documents), "top_percent_square_share": share}
