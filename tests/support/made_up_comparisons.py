"""comparisons.json of a made-up run, with the verdicts that a test wants."""

from itertools import combinations
from pathlib import Path

from strata_sae.pipeline.runs.comparison_records import (
    ComparedSAE,
    Comparisons,
    ComparisonTable,
    PairedDifference,
    Recipe,
    Verdict,
)
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.judging_records import Estimate, Interval, SeedSpread
from strata_sae.pipeline.runs.record_files import write_record
from support.made_up_run import SITES
from support.sealing import load

SITE = next(iter(SITES))


def estimate(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, interval=Interval(low=value - half, high=value + half))


def spread(value: float) -> SeedSpread:
    return SeedSpread(mean=value, standard_deviation=None, n_seeds=1, n_undefined=0)


def write_comparisons(
    run: Path, names: list[str], verdicts: dict[tuple[str, str], Verdict], *, usual: Verdict, n_seeds: int = 1
) -> None:
    """`usual`: the verdict of the pairs that `verdicts` does not name."""
    scores = {name: load(run / "variants" / f"{name}@{SITE}" / "metrics.json") for name in names}
    l0, r2 = ({name: scores[name]["metrics"][metric]["value"] for name in names} for metric in ("l0", "r2_pooled"))
    table = ComparisonTable(
        site=SITE,
        population="as_trained",
        metric="r2_pooled",
        n_documents=441,
        n_rows=103_212,
        saes=[
            ComparedSAE(
                name=f"{name}@{SITE}",
                recipe=name,
                seed=0,
                fingerprint=scores[name]["fingerprint"],
                l0=estimate(l0[name], 0.5),
                value=estimate(r2[name]),
            )
            for name in names
        ],
        recipes=[
            Recipe(
                name=name,
                variants=[name],
                seeds=[0],
                l0=estimate(l0[name], 0.5),
                value=estimate(r2[name]),
                l0_over_seeds=spread(l0[name]),
                value_over_seeds=spread(r2[name]),
                target_l0=None,
                tolerance=None,
                is_at_target=None,
            )
            for name in names
        ],
        pairs=[
            PairedDifference(
                first=first,
                second=second,
                difference=estimate(r2[first] - r2[second], 0.001),
                p_documents=0.001,
                over_seeds=None,
                p_seeds=None,
                n_seeds=n_seeds,
                p_holm=0.003,
                verdict=verdicts.get((first, second), usual),
            )
            for first, second in combinations(names, 2)
        ],
        notes=[],
    )
    record = Comparisons(fingerprint="ab" * 32, tables=[table], refused=[])
    write_record(RunFolder(run).comparisons, record)
