"""How well the batches of each site were mixed, and whether reading them kept up: from curves and loader logs."""

from statistics import fmean
from typing import Any

from pipeline.report.facts import UNKNOWN, count
from pipeline.report.run_data import Run, Trained

HEADS = ("batches of", "documents in one", "positions in one", "variance ratio", "read", "decoding", "waiting")
SHOWN = "mixing/documents_ratio"


def mixing_table(run: Run) -> list[tuple[str, list[str]]]:
    """For each site, batch size and seed: (what, one cell for each of HEADS)."""
    table = []
    for site in run.sites:
        for key in dict.fromkeys(_key(sae.config) for sae in run.at(site)):
            saes = [sae for sae in run.at(site) if _key(sae.config) == key]
            lines = max((_measured(sae) for sae in saes), key=len)
            log = [line for line in run.loader.get(site, []) if _key(line) == key]
            if lines or log:
                table.append((site, [f"{count(key[0])} rows, seed {count(key[1])}", *_mixed(lines, log), *_speed(log)]))
    return table


def _key(record: dict[str, Any]) -> tuple[Any, Any]:
    return record.get("batch_size"), record.get("seed")


def _measured(sae: Trained) -> list[dict[str, Any]]:
    return [line for line in sae.curves if isinstance(line.get(SHOWN), int | float)]


def _mixed(lines: list[dict[str, Any]], log: list[dict[str, Any]]) -> list[str]:
    predicted = _last(log, "predicted_variance_ratio")
    measured = _mean(lines, "mixing/variance_ratio")
    return [
        _of_perfect(lines, "documents"),
        _of_perfect(lines, "positions"),
        f"{_ratio(predicted)} predicted, {_ratio(measured)} measured",
    ]


def _of_perfect(lines: list[dict[str, Any]], name: str) -> str:
    """A count and what it is of a perfect shuffle's: of the first batch, and of all that were logged."""
    if not lines:
        return UNKNOWN
    first, key = lines[0].get(f"mixing/{name}_ratio"), f"mixing/{name}"
    whole = _mean(lines, f"{key}_ratio")
    return f"{count(_mean(lines, key))} ({_percent(whole)} of a perfect shuffle; first batch {_percent(first)})"


def _speed(log: list[dict[str, Any]]) -> list[str]:
    fill, threads = _sum(log, "fill_seconds"), _sum(log, "thread_seconds")
    seconds = _sum(log, "seconds")
    waits, waited = count(_sum(log, "waits")), _sum(log, "wait_seconds")
    return [
        f"{count(_sum(log, 'n_bytes') / fill / 1e6)} MB/s" if fill > 0 else UNKNOWN,
        _percent(_sum(log, "decode_seconds") / threads) if threads > 0 else UNKNOWN,
        f"{waited:.1f} of {count(seconds)} s (stalls: {waits})" if fill > 0 else UNKNOWN,
    ]


def _values(lines: list[dict[str, Any]], name: str) -> list[float]:
    return [line[name] for line in lines if isinstance(line.get(name), int | float)]


def _mean(lines: list[dict[str, Any]], name: str) -> float | None:
    values = _values(lines, name)
    return fmean(values) if values else None


def _sum(lines: list[dict[str, Any]], name: str) -> float:
    return sum(_values(lines, name))


def _last(lines: list[dict[str, Any]], name: str) -> float | None:
    values = _values(lines, name)
    return values[-1] if values else None


def _percent(share: Any) -> str:
    return f"{100 * share:.0f} %" if isinstance(share, int | float) else UNKNOWN


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
