"""What stores lie in a folder, and what one holds, for people. Cheap: no array is opened and no byte is hashed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, parse_canonical
from strata_sae.stores.files.deletion import half_deleted
from strata_sae.stores.format.commits import commits, keys, read_commit, read_listed, read_manifest, statistics_name
from strata_sae.stores.format.plan import ARRAYS, COMMITS, MANIFEST, PLAN, Plan
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.writing.finishing import total_timing

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_AGES = ((86400, "d"), (3600, "h"), (60, "min"))


@dataclass(frozen=True)
class Row:
    """One folder that holds a store, or what is left of one."""

    name: str
    state: str
    """The store id of a finished store, `unfinished 3/8` of one that is being filled, or `damaged`."""
    problem: str = ""
    model: str = ""
    sites: tuple[str, ...] = ()
    n_rows: int = 0
    encoding: str = ""
    compressor: str = ""
    n_bytes: int = 0
    """Of the files that are there by the records."""
    age_seconds: float | None = None
    """Since it was finished; null if it is not."""
    lineage: str = ""
    """`slice of 0123456789ab`: what it was derived from; empty for an extraction."""


def list_stores(root: Path) -> list[Row]:
    """The stores in a folder, by name. A damaged one is a row with its problem, never an error.

    Raises: StoreError if there is no such folder.
    """
    if not root.is_dir():
        raise StoreError(f"{root}: no such folder")
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]
    rows = [_row(folder) for folder in folders if _looks_like_a_store(folder)]
    for name, _ in half_deleted(root):
        rows.append(Row(name, "half deleted", f"store delete {root / name} removes the rest"))
    return rows


def stores_table(rows: Sequence[Row]) -> str:
    """The rows as text, a line each."""
    titles = ["store", "id or state", "model", "rows", "sites", "encoding", "size", "age", "from"]
    lines = [titles, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for number, row in enumerate(rows, start=1):
        if row.problem:
            shown[number] = f"{row.name.ljust(widths[0])}  {row.state}: {row.problem}"
    return "\n".join(shown)


class SiteSummary(TypedDict):
    """A site of a store."""

    d_model: int
    bytes_per_token: float
    """Bytes of a row on disk."""


class Summary(TypedDict):
    """What a store is, as plain data."""

    store_id: str
    plan_id: str
    lineage: dict[str, Json] | None
    model: Json
    corpus: Json
    config: dict[str, Json]
    sites: dict[str, SiteSummary]
    encoding: str
    compressor: str
    n_rows: int
    n_documents: int
    split_rows: dict[str, int]
    rows_per_chunk: int
    n_units: int
    n_data_files: int
    token_map_bytes: int
    total_bytes: int
    timing: dict[str, Json] | None
    statistics: dict[str, dict[str, dict[str, Json]]]
    """By site and group of rows (`all`, `content`), every statistic that is one number, or some by name."""
    siblings: NotRequired[dict[str, list[str]]]
    """Of stores that are opened as one: the sites of each but the first, by its id."""


def summarise(folder: Path, plan: Plan, store_id: str, hashes: dict[str, str]) -> Summary:
    """What a finished store is. Raises: StoreError if a commit record or the statistics are not the MANIFEST's."""
    site_bytes = dict.fromkeys(plan.sites, 0)
    n_files = len(plan.files)
    for key, record in commits(folder, plan, hashes):
        if not isinstance(key, int):
            continue
        n_files += len(record.files)
        for site, specs in plan.site_specs.items():
            site_bytes[site] += sum(record.files[spec.shard_path(key)].n_bytes for spec in specs.values())
    token_bytes = sum(file.n_bytes for file in plan.files.values())
    timing = total_timing(folder)
    return {
        "store_id": store_id,
        "plan_id": plan.id,
        "lineage": plan.lineage.json() if plan.lineage else None,
        "model": plan.provenance.get("model", {}),
        "corpus": plan.provenance.get("corpus", {}),
        "config": plan.config,
        "sites": {
            site: {"d_model": m, "bytes_per_token": site_bytes[site] / plan.n_rows} for site, m in plan.sites.items()
        },
        "encoding": plan.encoding,
        "compressor": plan.compressor,
        "n_rows": plan.n_rows,
        "n_documents": plan.n_documents,
        "split_rows": {name: stop - start for name, (start, stop) in plan.splits.items()},
        "rows_per_chunk": plan.rows_per_chunk,
        "n_units": plan.n_units,
        "n_data_files": n_files,
        "token_map_bytes": token_bytes,
        "total_bytes": token_bytes + sum(site_bytes.values()),
        "timing": timing.json() if timing else None,
        "statistics": {site: _scalars(folder, statistics_name(site), hashes) for site in plan.sites},
    }


def _scalars(folder: Path, name: str, hashes: dict[str, str]) -> dict[str, dict[str, Json]]:
    statistics = parse_canonical(read_listed(folder, name, hashes[name]), folder / name)
    return {
        group: {key: value for key, value in values.items() if not isinstance(value, list)}
        for group, values in statistics.items()
        if isinstance(values, dict)
    }


def summary_text(summary: Summary) -> str:
    """What `ActivationStore.summary` says, as text."""
    model, corpus, timing = _fields(summary["model"]), _fields(summary["corpus"]), summary["timing"]
    sources = corpus.get("sources")
    splits = ", ".join(f"{count:,} {name}" for name, count in summary["split_rows"].items())
    lines = [
        ("store", summary["store_id"]),
        ("plan", summary["plan_id"]),
        ("model", " ".join(str(model[key]) for key in ("model", "revision", "dtype") if model.get(key))),
        ("text", ", ".join(map(_source, sources)) if isinstance(sources, list) else ""),
        ("rows", f"{summary['n_rows']:,} of {summary['n_documents']:,} documents ({splits})"),
        ("encoding", f"{summary['encoding']}, compressor {summary['compressor']}"),
        ("size", f"{size(summary['total_bytes'])} in {summary['n_data_files']:,} files"),
        ("units", f"{summary['n_units']:,}, chunks of {summary['rows_per_chunk']:,} rows"),
        ("filled", f"{timing['rows_per_second']:,.0f} rows a second" if timing else ""),
        ("from", _derived_from(summary["lineage"])),
    ]
    text = [f"{label:<9} {value}" for label, value in lines if value]
    text += ["", f"{'site':<36} {'wide':>6} {'bytes/row':>10} {'E||x||^2':>12} {'median norm':>12}"]
    for site, facts in summary["sites"].items():
        content = summary["statistics"].get(site, {}).get("content", {})
        text.append(
            f"{site:<36} {facts['d_model']:>6} {facts['bytes_per_token']:>10,.1f} "
            f"{_number(content.get('mean_square_norm')):>12} "
            f"{_number(_fields(content.get('norm_quantiles')).get('0.5')):>12}"
        )
    return "\n".join(text)


def _fields(value: Json) -> dict[str, Json]:
    """The value's fields; none where it is no object, which a plan's provenance may hold."""
    return value if isinstance(value, dict) else {}


def _derived_from(lineage: Mapping[str, Json] | None) -> str:
    """What a store was derived from, in words; empty for an extraction."""
    return f"{lineage['kind']} of {str(lineage['store_id'])[:12]}" if lineage else ""


def size(n_bytes: float) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least 1."""
    for scale, unit in _UNITS:
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def _looks_like_a_store(folder: Path) -> bool:
    return any((folder / name).exists() for name in (PLAN, MANIFEST, COMMITS, ARRAYS))


def _row(folder: Path) -> Row:
    try:
        plan = read_plan(folder)
        finished = (folder / MANIFEST).exists()
        done, n_bytes = _committed(folder, plan)
        state = read_manifest(folder, plan)[0][:12] if finished else f"unfinished {done}/{plan.n_units}"
        return Row(
            name=folder.name,
            state=state,
            model=str(_fields(plan.provenance.get("model")).get("model", "")),
            sites=tuple(plan.sites),
            n_rows=plan.n_rows,
            encoding=plan.encoding,
            compressor=plan.compressor,
            n_bytes=n_bytes,
            age_seconds=max(0.0, time.time() - (folder / MANIFEST).stat().st_mtime) if finished else None,
            lineage=_derived_from(plan.lineage.json() if plan.lineage else None),
        )
    except (StoreError, OSError) as error:
        return Row(name=folder.name, state="damaged", problem=str(error).splitlines()[0])


def _committed(folder: Path, plan: Plan) -> tuple[int, int]:
    """Units that are committed, and the bytes of all files that the records name."""
    n_bytes = sum(file.n_bytes for file in plan.files.values())
    done = 0
    for key in keys(plan):
        record = read_commit(folder, plan, key)
        if record is not None:
            n_bytes += sum(file.n_bytes for file in record.files.values())
            done += isinstance(key, int)
    return done, n_bytes


def _cells(row: Row) -> list[str]:
    stored = row.encoding if row.compressor == "none" else f"{row.encoding}/{row.compressor}"
    age = "" if row.age_seconds is None else _age(row.age_seconds)
    sites = row.sites[0] + (f" +{len(row.sites) - 1}" if len(row.sites) > 1 else "") if row.sites else ""
    return [row.name, row.state, row.model, f"{row.n_rows:,}", sites, stored, size(row.n_bytes), age, row.lineage]


def _age(seconds: float) -> str:
    for scale, unit in _AGES:
        if seconds >= scale:
            return f"{seconds / scale:.0f} {unit}"
    return f"{seconds:.0f} s"


def _number(value: Json) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else "-"


def _source(value: Json) -> str:
    source = _fields(value)
    documents = source.get("documents")
    counted = f" ({documents:,} documents)" if isinstance(documents, int) else ""
    return f"{source.get('path') or source.get('kind')}{counted}"
