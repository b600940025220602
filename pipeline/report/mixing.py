"""How well the batches of each site were mixed, and whether reading them kept up: from curves and loader logs."""

from strata_sae.pipeline.report.facts import UNKNOWN, count
from strata_sae.pipeline.report.leaves import loader_totals
from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.runs.records import CurveLine, LoaderLine

HEADS = ("batches of", "documents in one", "positions in one", "variance ratio", "read", "decoding", "waiting")
SHOWN = "mixing/documents_ratio"


def mixing_table(run: Run) -> list[tuple[str, list[str]]]:
    """For each site, batch size and seed: (what, one cell for each of HEADS)."""
    table = []
    for site in run.sites:
        logs = {(total.batch_size, total.seed): total for total in loader_totals(run.loader.get(site, []))}
        for key in dict.fromkeys(_key(sae) for sae in run.at(site)):
            lines = max((_measured(sae) for sae in run.at(site) if _key(sae) == key), key=len)
            log = logs.get(key) if key else None
            if lines or log:
                batches = f"{count(key[0])} rows, seed {count(key[1])}" if key else UNKNOWN
                table.append((site, [batches, *_mixed(lines, log), *_speed(log)]))
    return table


def _key(sae: Trained) -> tuple[int, int] | None:
    """Batch size and seed of what an SAE was trained on: those of the lines of its loader's log."""
    return (sae.config.training.batch_size, sae.config.seed) if sae.config else None


def _measured(sae: Trained) -> list[CurveLine]:
    return [line for line in sae.curves if line.value(SHOWN) is not None]


def _mixed(lines: list[CurveLine], log: LoaderLine | None) -> list[str]:
    predicted = log.predicted_variance_ratio if log else None
    measured = _mean(lines, "mixing/variance_ratio")
    return [
        _of_perfect(lines, "documents"),
        _of_perfect(lines, "positions"),
        f"{_ratio(predicted)} predicted, {_ratio(measured)} measured",
    ]


def _of_perfect(lines: list[CurveLine], name: str) -> str:
    """A count and what it is of a perfect shuffle's: of the first batch, and of all that were logged."""
    if not lines:
        return UNKNOWN
    first, key = lines[0].value(f"mixing/{name}_ratio"), f"mixing/{name}"
    whole = _mean(lines, f"{key}_ratio")
    return f"{count(_mean(lines, key))} ({_percent(whole)} of a perfect shuffle; first batch {_percent(first)})"


def _speed(log: LoaderLine | None) -> list[str]:
    """Dashes where this process filled no window: another one did (shared windows), or an earlier version ran."""
    if log is None:
        return [UNKNOWN] * 3
    fill, threads, waited = log.fill_seconds, log.thread_seconds, log.wait_seconds
    return [
        f"{count(log.n_bytes / fill / 1e6)} MB/s" if fill > 0 else UNKNOWN,
        _percent(log.decode_seconds / threads) if threads > 0 else UNKNOWN,
        f"{waited:.2f} of {log.seconds:.1f} s (stalls: {count(log.waits)})" if waited > 0 else UNKNOWN,
    ]


def _mean(lines: list[CurveLine], name: str) -> float | None:
    values = [value for line in lines if (value := line.value(name)) is not None]
    return sum(value / len(values) for value in values) if values else None


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.0f} %"


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
