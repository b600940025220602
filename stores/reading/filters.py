"""Which rows are read: masks made at read time from the token map and the stored norms."""

from dataclasses import asdict, dataclass

import numpy as np

from strata_sae.stores.format.arrays import FLAG_BOS, FLAG_SPECIAL, FLAG_TEMPLATE


@dataclass(frozen=True)
class Filters:
    """Rows to leave out."""

    drop_bos: bool = False
    drop_special: bool = False
    drop_template: bool = False
    max_norm_multiple: float | None = None
    """Leave out rows whose norm exceeds this multiple of the median norm of unflagged rows (known within 0.8 %)."""

    def key(self) -> dict[str, bool | float | None]:
        """Plain data that names these filters, for fingerprints and random keys."""
        return asdict(self)

    def flag_mask(self) -> int:
        """Flag bits whose rows are left out."""
        return self.drop_bos * FLAG_BOS | self.drop_special * FLAG_SPECIAL | self.drop_template * FLAG_TEMPLATE

    def passes(self, flags_N: np.ndarray, norms_N: np.ndarray | None, median_norm: float) -> np.ndarray:
        """Boolean mask of the rows that stay; norms may be None when no norm limit is set."""
        mask_N = (flags_N & self.flag_mask()) == 0
        if self.max_norm_multiple is not None:
            assert norms_N is not None
            mask_N &= norms_N <= self.max_norm_multiple * median_norm
        return np.asarray(mask_N)
