"""What was extracted and with what, as (label, value) pairs of text."""

from typing import Any

from pipeline.report.run_data import Run

Facts = list[tuple[str, str]]


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands; a dash for what is not known."""
    return f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if isinstance(value, int | float) else "–"


def size(n_bytes: Any) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least 1."""
    if not isinstance(n_bytes, int | float):
        return "–"
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= power:
            return f"{n_bytes / power:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def store_facts(run: Run) -> Facts:
    """The activation store: size, form and identity."""
    store = run.store
    rows, documents = store.get("rows", {}), store.get("documents", {})
    sites = ", ".join(f"{site} ({width} wide)" for site, width in store.get("sites", {}).items())
    rate = store.get("timings", {}).get("rows_per_second")
    facts = [
        ("Model", store.get("model")),
        ("Text", store.get("corpus")),
        ("Sites", sites),
        ("Rows for training", _of(rows.get("train"), documents.get("train"))),
        ("Rows held out", _of(rows.get("heldout"), documents.get("heldout"))),
        ("Bytes per token", _bytes_per_token(store.get("bytes_per_token", {}))),
        ("Encoding", _encoding(store)),
        ("On disk", f"{size(store['total_bytes'])} in {count(store.get('n_files'))} files" if "total_bytes" in store else None),
        ("Extraction", f"{count(rate)} rows per second" if rate else None),
        ("Store id", store.get("store_id")),
        ("Plan id", store.get("plan_id")),
    ]
    return [(label, str(value)) for label, value in facts if value]


def run_facts(run: Run) -> Facts:
    """The strip of numbers under the statement."""
    rows = run.store.get("rows", {})
    widths = run.store.get("bytes_per_token", {})
    scored = {sae.metrics["n_rows"] for sae in run.trained if "n_rows" in sae.metrics}
    facts = [
        ("rows stored per site", count(sum(rows.values())) if rows else None),
        ("sites", count(len(run.sites))),
        ("variants", count(len(run.variants))),
        ("bytes per token", count(sum(widths.values())) if widths else None),
        ("rows per second, extraction", count(run.store.get("timings", {}).get("rows_per_second"))),
        ("held-out rows scored", count(max(scored)) if scored else None),
    ]
    return [(label, value) for label, value in facts if value not in (None, "–")]


def environment_facts(run: Run) -> Facts:
    """The machine and the versions that trained, and the config's seed."""
    facts = {"seed": run.config.get("seed"), **run.environment}
    packages = facts.pop("packages", {})
    facts |= packages if isinstance(packages, dict) else {}
    return [(key.replace("_", " "), str(value)) for key, value in facts.items() if value is not None]


def variant_facts(run: Run) -> Facts:
    """Each variant's architecture, its knobs, and the terms of its objective."""
    facts = []
    for name in run.variants:
        config = next(sae.config for sae in run.trained if sae.variant == name)
        sae, objective = dict(config.get("sae", {})), config.get("objective", {})
        parts = [str(sae.pop("architecture", "")), f"{count(sae.pop('d_sae', None))} latents", _knobs(sae)]
        parts.append(" + ".join(_term(term, knobs) for term, knobs in objective.items()))
        facts.append((name, " · ".join(part for part in parts if part)))
    return facts


def _term(name: str, knobs: Any) -> str:
    weight = knobs.get("weight") if isinstance(knobs, dict) else None
    return name if weight in (None, 1, 1.0) else f"{name} ({_knobs({'weight': weight})})"


def _knobs(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_knob(value)}" for key, value in settings.items() if value is not None)


def _knob(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(item) for item in value.values())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _encoding(store: dict[str, Any]) -> str | None:
    if "encoding" not in store:
        return None
    compressor = store.get("compressor", "none")
    return f"{store['encoding']}, {'uncompressed' if compressor == 'none' else compressor}"


def _of(rows: Any, documents: Any) -> str | None:
    if rows is None:
        return None
    return count(rows) if documents is None else f"{count(rows)}, from {count(documents)} documents"


def _bytes_per_token(by_site: dict[str, float]) -> str | None:
    if not by_site:
        return None
    each = sorted(set(by_site.values()))
    text = " to ".join(f"{value:,.4g}" if value % 1 else count(value) for value in ([each[0], each[-1]] if len(each) > 1 else each))
    return f"{text} per site"
