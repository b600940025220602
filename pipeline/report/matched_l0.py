"""Which SAE of each kind comes nearest the L0 at which kinds are to be compared."""

from pydantic import JsonValue

from strata_sae.pipeline.report.run_data import Run, Trained


def target_l0(run: Run) -> float | None:
    """`evaluation.target_l0` of the config; None where it names none."""
    evaluation = run.config.get("evaluation")
    found = evaluation.get("target_l0") if isinstance(evaluation, dict) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def kind_of(run: Run, variant: str) -> str | None:
    """The kind that the config gives a variant: the name under which its sweep stood. None: it has none."""
    variants = run.config.get("variants")
    settings: JsonValue = variants.get(variant) if isinstance(variants, dict) else None
    kind = settings.get("kind") if isinstance(settings, dict) else None
    return kind if isinstance(kind, str) else None


def nearest_to_target(run: Run) -> set[tuple[str, str]]:
    """(variant, site) of the SAE that is nearest the target L0 among those of its kind and site; equal: lowest FVU.

    A kind of which one SAE alone is scored at a site has nothing to choose from.
    """
    target = target_l0(run)
    if target is None:
        return set()
    groups: dict[tuple[str, str], list[Trained]] = {}
    for sae in run.trained:
        if (kind := kind_of(run, sae.variant)) is not None and sae.value("l0") is not None:
            groups.setdefault((kind, sae.site), []).append(sae)
    found = [min(saes, key=lambda sae: _order(sae, target)) for saes in groups.values() if len(saes) > 1]
    return {(sae.variant, sae.site) for sae in found}


def _order(sae: Trained, target: float) -> tuple[float, float, str]:
    """Distance of its L0, FVU (scores of before FVU have r2_pooled), name."""
    l0, r2 = sae.value("l0"), sae.value("r2_pooled")
    return abs((l0 or 0.0) - target), float("inf") if r2 is None else 1.0 - r2, sae.variant
