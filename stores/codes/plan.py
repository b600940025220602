"""What a codes store holds: the codes of every latent of one SAE on every row of a store, in segments of rows."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_int, as_object, as_text, canonical_json, parse_canonical
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.records import MAX_ROWS

ROWS_PER_SEGMENT = 2**20
"""A segment of 64 codes a row is built in about 1 GiB."""
FORMAT, VERSION = "strata-codes", 1
CODES = "codes.json"
MAX_SEGMENTS = 2**16  # the MANIFEST lists fourteen files of each, and JSON of ours has at most 2^20 keys
MAX_LATENTS = 2**24
MAX_ROWS_PER_SEGMENT = 2**31  # rows are written as uint32
_MAX_SITES, _MAX_TEXT = 64, 512


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

    @property
    def data(self) -> bytes:
        """The bytes of codes.json, which end with a checksum of their own."""
        body: dict[str, Json] = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return canonical_json(body | {"sha256": sha256(canonical_json(body))})

    @property
    def id(self) -> str:
        """sha256 of codes.json."""
        return sha256(self.data)


def parse_codes_plan(data: bytes, where: Path | str) -> CodesPlan:
    """A plan from the bytes of codes.json. Raises: StoreError if they are not what `CodesPlan.data` writes."""
    value = parse_canonical(data, where)
    if value.get("format") != FORMAT or value.get("version") is True or value.get("version") != VERSION:
        raise StoreError(
            f"{where}: format {str(value.get('format'))[:40]!r} version {str(value.get('version'))[:40]}; this "
            f"program reads {FORMAT!r} version {VERSION}"
        )
    try:
        plan = CodesPlan(
            store_ids={site: as_text(store) for site, store in as_object(value["store_ids"]).items()},
            plan_id=as_text(value["plan_id"]),
            sae=as_text(value["sae"]),
            weights_sha256=as_text(value["weights_sha256"]),
            site=as_text(value["site"]),
            encoder=as_text(value["encoder"]),
            d_sae=as_int(value["d_sae"]),
            n_rows=as_int(value["n_rows"]),
            rows_per_segment=as_int(value["rows_per_segment"]),
        )
        check_codes_plan(plan)
    except (KeyError, ValueError) as error:
        raise StoreError(f"{where}: a field is not what codes may hold ({error})") from None
    if plan.data != data:
        raise StoreError(f"{where}: its own checksum or its keys differ; the file is damaged, make the codes again")
    return plan


def check_codes_plan(plan: CodesPlan) -> None:
    """Raises: ValueError saying what no codes store may have."""
    limits = {
        "d_sae": (plan.d_sae, MAX_LATENTS),
        "n_rows": (plan.n_rows, MAX_ROWS),
        "rows_per_segment": (plan.rows_per_segment, MAX_ROWS_PER_SEGMENT),
    }
    for name, (count, most) in limits.items():
        if not 1 <= count <= most:
            raise ValueError(f"{name} is {count}; it is from 1 to {most}")
    if plan.n_segments > MAX_SEGMENTS:
        raise ValueError(f"{plan.n_segments} segments, more than {MAX_SEGMENTS}")
    texts = [plan.plan_id, plan.sae, plan.weights_sha256, plan.site, plan.encoder]
    texts += [*plan.store_ids, *plan.store_ids.values()]
    if not 1 <= len(plan.store_ids) <= _MAX_SITES or any(len(text) > _MAX_TEXT for text in texts):
        raise ValueError(f"from 1 to {_MAX_SITES} sites, and texts of at most {_MAX_TEXT} characters")


def check_same(folder: Path, found: CodesPlan, wanted: CodesPlan) -> None:
    """Raises: StoreError naming in what the codes of a folder differ from those that are wanted."""
    names = [field.name for field in fields(CodesPlan) if getattr(found, field.name) != getattr(wanted, field.name)]
    if names:
        told = [f"{name} {_told(getattr(found, name))}, not {_told(getattr(wanted, name))}" for name in names]
        raise StoreError(
            f"{folder}: holds codes of something else than these rows and these weights ({'; '.join(told)}); delete "
            f"that folder and run strata codes again"
        )


def _told(value: str | int | dict[str, str]) -> str:
    if isinstance(value, dict):
        return " ".join(f"{site} {store[:12]}" for site, store in sorted(value.items()))
    return ascii(value[:40]) if isinstance(value, str) else str(value)
