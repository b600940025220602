"""curves.jsonl: what training looked like, one line per logged step. No clock in it, so a kill leaves no trace."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.runs import make_folder, naming, sync
from strata_sae.pipeline.runs.record_files import line_of
from strata_sae.pipeline.runs.records import CurveLine

COSINE_LINES = 20
"""About how many lines of a run carry `decoder_max_cosine_mean`, which costs as much as a few steps."""


class Prefix(NamedTuple):
    """The beginning of a file, and what it holds."""

    n_bytes: int
    sha256: str


def prefix_of(path: Path, n_bytes: int) -> Prefix:
    """The first `n_bytes` of a file, or as much of them as there is; a missing file is empty."""
    try:
        data = path.read_bytes()[:n_bytes]
    except FileNotFoundError:
        data = b""
    return Prefix(len(data), hashlib.sha256(data).hexdigest())


class Curves:
    """The open log of one SAE, cut to `offset` bytes first: lines after the last checkpoint are written again."""

    def __init__(self, path: Path, offset: int) -> None:
        make_folder(path.parent)
        self._path = path
        self._file = open(path, "ab")  # noqa: SIM115 - lives as long as this object
        try:
            self._file.truncate(offset)
            self._digest = hashlib.sha256(path.read_bytes())
            sync(path.parent)  # a checkpoint that counts on this file must not outlive it in a power cut
        except OSError:
            self._file.close()
            raise

    def write(self, line: CurveLine) -> None:
        """Add one line."""
        data = line_of(line)
        self._digest.update(data)
        with naming(self._path):
            self._file.write(data)

    def sync(self) -> Prefix:
        """Flush to the disk. Returns: what was written so far."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return Prefix(os.fstat(self._file.fileno()).st_size, self._digest.hexdigest())

    def sha256(self) -> str:
        """Hash (hex) of all that was written, as it was meant to be: not of what a disk made of it."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Flush to the disk and close; a second time does nothing."""
        if self._file.closed:
            return
        try:
            self.sync()
        except OSError:
            with suppress(OSError):  # what waits in its buffer fails once more
                self._file.close()
            raise
        self._file.close()


def is_logged(step: int, every_steps: int, n_steps: int) -> bool:
    """Whether the line of `step` (updates done, 1-based) is written: the first, each `every_steps`-th, the last."""
    return step == 1 or step % every_steps == 0 or step == n_steps


def has_cosines(step: int, every_steps: int, n_steps: int) -> bool:
    """Whether the line of `step` carries the decoder's cosines: about COSINE_LINES lines, first and last included."""
    stride = max(1, round(n_steps / every_steps / COSINE_LINES)) * every_steps
    return step == 1 or step % stride == 0 or step == n_steps


def batch_r2(x_BM: Tensor, xhat_BM: Tensor) -> float:
    """1 - sum |x - xhat|^2 / sum |x - mean of the batch|^2: share of this batch's variance explained."""
    error = (x_BM - xhat_BM).double().square().sum()
    spread = (x_BM - x_BM.mean(dim=0)).double().square().sum()
    return float(1.0 - error / spread)


def decoder_max_cosine_mean(W_dec: Tensor, tile_rows: int = 1024) -> float:
    """Mean over latents of the largest cosine of its decoder row with any other row, in tiles (never all pairs)."""
    unit_EM = torch.nn.functional.normalize(W_dec, dim=1)
    largest_E = unit_EM.new_full((unit_EM.shape[0],), -1.0)
    for start in range(0, unit_EM.shape[0], tile_rows):
        # Each pair once: a tile meets the rows from its own on, and tells both sides.
        cosine_RE = unit_EM[start : start + tile_rows] @ unit_EM[start:].T
        cosine_RE.diagonal().fill_(-1.0)
        own_E, others_E = largest_E[start : start + tile_rows], largest_E[start:]
        torch.maximum(own_E, cosine_RE.amax(dim=1), out=own_E)
        torch.maximum(others_E, cosine_RE.amax(dim=0), out=others_E)
    return float(largest_E.double().mean())
