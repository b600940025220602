"""How well the batches of each site were mixed, and whether reading them kept up: from curves and loader logs."""

from typing import Any

from strata_sae.pipeline.report.facts import UNKNOWN, count
from strata_sae.pipeline.report.leaves import loader_totals
from strata_sae.pipeline.report.run_data import Run, Trained

HEADS = ("batches of", "documents in one", "positions in one", "variance ratio", "read", "decoding", "waiting")
SHOWN = "mixing/documents_ratio"


def mixing_table(run: Run) -> list[tuple[str, list[str]]]:
    """For each site, batch size and seed: (what, one cell for each of HEADS)."""
    table = []
    for site in run.sites:
        logs = {(total["batch_size"], total["seed"]): total for total in loader_totals(run.loader.get(site, []))}
        for key in dict.fromkeys(_key(sae) for sae in run.at(site)):
            saes = [sae for sae in run.at(site) if _key(sae) == key]
            lines = max((_measured(sae) for sae in saes), key=len)
            log = logs.get(key, {})
            if lines or log:
                table.append((site, [f"{count(key[0])} rows, seed {count(key[1])}", *_mixed(lines, log), *_speed(log)]))
    return table


def _key(sae: Trained) -> tuple[Any, Any]:
    """Batch size and seed of what an SAE was trained on: those of the lines of its loader's log."""
    return sae.config.get("training", {}).get("batch_size"), sae.config.get("seed")


def _measured(sae: Trained) -> list[dict[str, Any]]:
    return [line for line in sae.curves if isinstance(line.get(SHOWN), int | float)]


def _mixed(lines: list[dict[str, Any]], log: dict[str, Any]) -> list[str]:
    predicted = log.get("predicted_variance_ratio")
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


def _speed(log: dict[str, Any]) -> list[str]:
    """Dashes where this process filled no window: another one did (shared windows), or an earlier version ran."""
    fill, threads, waited = (log.get(f"{name}_seconds", 0.0) for name in ("fill", "thread", "wait"))
    return [
        f"{count(log['n_bytes'] / fill / 1e6)} MB/s" if fill > 0 else UNKNOWN,
        _percent(log["decode_seconds"] / threads) if threads > 0 else UNKNOWN,
        f"{waited:.2f} of {log['seconds']:.1f} s (stalls: {count(log['waits'])})" if waited > 0 else UNKNOWN,
    ]


def _mean(lines: list[dict[str, Any]], name: str) -> float | None:
    values = [line[name] for line in lines if isinstance(line.get(name), int | float)]
    return sum(value / len(values) for value in values) if values else None


def _percent(share: Any) -> str:
    return f"{100 * share:.0f} %" if isinstance(share, int | float) else UNKNOWN


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
