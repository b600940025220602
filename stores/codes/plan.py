"""What a codes store holds: the codes of every latent of one SAE on every row of a store, in segments of rows."""

from dataclasses import dataclass

from strata_sae.stores.errors import StoreError

ROWS_PER_SEGMENT = 2**20
"""A segment of 64 codes a row is built in about 1 GiB."""
FORMAT, VERSION = "strata-codes", 1


@dataclass(frozen=True)
class CodesPlan:
    """codes.json: what the codes are of. Two codes stores of equal plans hold equal bytes."""

    store_ids: dict[str, str]
    """Site that is read -> id of its store."""
    plan_id: str
    """Of the store of the first site."""
    sae: str
    """Fingerprint of the SAE's config."""
    weights_sha256: str
    site: str
    """Name of the site, or of the route."""
    encoder: str
    """How rows were encoded: what the bits depend on beside rows and weights."""
    d_sae: int
    n_rows: int
    """All rows of the store: filters act when codes are read."""
    rows_per_segment: int = ROWS_PER_SEGMENT

    @property
    def n_segments(self) -> int:
        """Segments (count)."""
        return -(-self.n_rows // self.rows_per_segment)

    def segment_rows(self, segment: int) -> tuple[int, int]:
        """Rows [start, stop) of a segment. Raises: StoreError if there is no such segment."""
        if not 0 <= segment < self.n_segments:
            raise StoreError(f"segment {segment}: there are segments 0..{self.n_segments - 1}")
        start = segment * self.rows_per_segment
        return start, min(start + self.rows_per_segment, self.n_rows)
