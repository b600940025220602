"""What was extracted and with what, as (label, value) pairs of text."""

import math
from typing import Any

from strata_sae.pipeline.report.run_data import Run

Facts = list[tuple[str, str]]

UNKNOWN = "\N{EN DASH}"
"""Stands for a number that is not known."""
UNEVEN = 0.3
"""Share of the squared norm in 1 % of the rows from which the page warns."""


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands; a dash for what is not known."""
    if not (isinstance(value, int | float) and math.isfinite(value)):
        return UNKNOWN
    return f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def size(n_bytes: Any) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least 1."""
    if not isinstance(n_bytes, int | float):
        return UNKNOWN
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= power:
            return f"{n_bytes / power:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def store_facts(run: Run) -> Facts:
    """The activation store: size, form and identity."""
    store = run.store
    splits, timing = store.get("split_rows", {}), store.get("timing") or {}
    facts = [
        ("Model", _model(store.get("model", {}))),
        ("Text", _text(store)),
        ("Sites", ", ".join(f"{site} ({store['sites'][site]['d_model']} wide)" for site in store_sites(run))),
        ("Documents", count(store.get("n_documents"))),
        ("Rows to train on", count(splits.get("train"))),
        ("Rows held out", count(splits.get("heldout"))),
        ("Bytes per token", _bytes_per_token(store)),
        ("Encoding", _encoding(store)),
        ("On disk", f"{size(store.get('total_bytes'))} in {count(store.get('n_data_files'))} files"),
        ("Extraction", f"{count(timing.get('rows_per_second'))} rows per second, all sites"),
        ("Store id", store.get("store_id")),
        ("Plan id", store.get("plan_id")),
    ]
    return [(label, str(value)) for label, value in facts if value and UNKNOWN not in str(value)]


def run_facts(run: Run) -> Facts:
    """The strip of numbers under the statement."""
    store = run.store
    scored = [sae.metrics["n_rows"] for sae in run.trained if "n_rows" in sae.metrics]
    facts = [
        ("rows stored per site", count(store.get("n_rows"))),
        ("sites", count(len(run.sites))),
        ("variants", count(len(run.variants))),
        ("bytes per token, all sites", count(_total_bytes_per_token(store))),
        ("rows per second, extraction", count((store.get("timing") or {}).get("rows_per_second"))),
        ("held-out rows scored", count(max(scored, default=None))),
    ]
    return [(label, value) for label, value in facts if value != UNKNOWN]


def environment_facts(run: Run) -> Facts:
    """The machine and the versions that trained, and the config's seed."""
    facts = {"seed": run.config.get("seed"), **run.environment}
    packages = facts.pop("packages", {})
    facts |= packages if isinstance(packages, dict) else {}
    return [(key.replace("_", " "), str(value)) for key, value in facts.items() if value is not None]


def variant_facts(run: Run) -> Facts:
    """Each variant's architecture, the knobs that tell it from the others, and the terms of its objective."""
    facts = []
    shown = [sae for sae in run.trained if sae.config]
    configs = {sae.variant: sae.config for name in run.variants for sae in reversed(shown) if sae.variant == name}
    all_settings = [dict(config.get("sae", {})) for config in configs.values()]
    for name, config in configs.items():
        sae, objective = dict(config.get("sae", {})), config.get("objective", {})
        parts = [str(sae.pop("architecture", "")), f"{count(sae.pop('d_sae', None))} latents"]
        parts.append(_knobs({key: value for key, value in sae.items() if _tells(key, value, all_settings)}))
        terms = sorted(objective, key=lambda term: "reconstruction" not in term)
        parts.append(" + ".join(_term(term, objective[term]) for term in terms))
        facts.append((name, " · ".join(part for part in parts if part)))
    return facts


def _tells(key: str, value: Any, all_settings: list[dict[str, Any]]) -> bool:
    """Whether a knob says something of a variant: a number or a schedule, or what is not the same wherever it is."""
    if isinstance(value, bool | str) or (isinstance(value, dict) and "start" not in value):
        return any(settings[key] != value for settings in all_settings if key in settings)
    return True


def _term(name: str, knobs: Any) -> str:
    weight = knobs.get("weight") if isinstance(knobs, dict) else None
    return name if weight in (None, 1, 1.0) else f"{name} ({_knobs({'weight': weight})})"


def _knobs(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_knob(value)}" for key, value in settings.items() if value is not None)


def _knob(value: Any) -> str:
    if isinstance(value, dict) and {"start", "end"} <= value.keys():
        return f"{_knob(value['start'])} → {_knob(value['end'])}"
    if isinstance(value, dict):
        return f"({_knobs(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _encoding(store: dict[str, Any]) -> str | None:
    if "encoding" not in store:
        return None
    compressor = store.get("compressor", "none")
    return f"{store['encoding']}, {'uncompressed' if compressor == 'none' else compressor}"


def store_sites(run: Run) -> list[str]:
    """The store's sites, those of the SAEs first and in their order."""
    stored = run.store.get("sites", {})
    return [site for site in run.sites if site in stored] + [site for site in stored if site not in run.sites]


def uneven_sites(run: Run) -> dict[str, float]:
    """Sites where 1 % of the scored rows carry at least UNEVEN of the squared norm, with that share."""
    shares = {site: [sae.metrics.get("top_percent_square_share") or 0.0 for sae in run.at(site)] for site in run.sites}
    return {site: max(found) for site, found in shares.items() if max(found) >= UNEVEN}


def model_name(run: Run) -> str:
    """What the store calls the language model."""
    return str(run.store.get("model", {}).get("model", "of an unknown name"))


def _model(model: dict[str, Any]) -> str:
    return " · ".join(str(model[key]) for key in ("model", "revision", "architecture", "dtype") if model.get(key))


def _text(store: dict[str, Any]) -> str:
    sources = [
        f"{source.get('path') or source.get('kind')} ({count(source.get('documents'))} documents)"
        for source in store.get("corpus", {}).get("sources", [])
    ]
    corpus = store.get("config", {}).get("corpus", {})
    cut = f"{corpus['mode']}, {count(corpus.get('context_length'))} tokens at a time" if "mode" in corpus else ""
    return "; ".join(part for part in (", ".join(sources), cut) if part)


def _total_bytes_per_token(store: dict[str, Any]) -> float | None:
    each = [site.get("bytes_per_token", 0.0) for site in store.get("sites", {}).values()]
    return sum(each) if each else None


def _bytes_per_token(store: dict[str, Any]) -> str:
    each = sorted({round(site.get("bytes_per_token", 0.0)) for site in store.get("sites", {}).values()})
    return f"{' to '.join(count(value) for value in dict.fromkeys([each[0], each[-1]]))} per site" if each else ""
