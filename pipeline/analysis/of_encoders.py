"""A question about an SAE's encoder: what its decoder could express of held-out rows with as many latents."""

from strata_sae.pipeline.analysis.answer import Answer, Cell, Column, Points
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.queries.pursuit import MOST_STEPS, pursued

OWN, PURSUIT = "own encoder", "gradient pursuit"


def answer_pursuit(asked: Asked) -> Answer:
    """R2 and L0 of the SAE's own encoder and of gradient pursuit with several numbers of steps."""
    sae = asked.sae
    found = pursued(sae, asked.n)
    rows: list[tuple[Cell, ...]] = [(OWN, None, found.l0(found.own), found.r2(found.own), None, None)]
    for n, sums in found.after.items():
        rows.append((PURSUIT, n, found.l0(sums), found.r2(sums), *found.gain(sums)))
    n_rows, own_l0 = int(found.n_rows_D.sum()), found.l0(found.own)
    near = min(found.after, key=lambda n: abs(n - own_l0))
    gain, noise = found.gain(found.after[near])
    beside = "" if noise is None else f" +- {noise:.3f} (95 %, by document)"
    return Answer(
        f"{sae.name}: its encoder beside gradient pursuit",
        "Gradient pursuit finds the codes of each row for this SAE's decoder by optimisation, with no encoder: what it "
        f"gains is what the encoder loses. On {n_rows:,} held-out rows of {len(found.n_rows_D):,} documents, as "
        f"training filters them, with {near} steps: R2 {gain:+.3f}{beside}. At most {MOST_STEPS} steps are taken.",
        (
            Column("encoder", "how codes were found"),
            Column("steps", "of gradient pursuit: latents of a row, at most"),
            Column("l0_latents", "active latents a row"),
            Column("r2", "1 - error / variance, over all numbers of these rows together"),
            Column("r2_gain", "R2 less that of the own encoder"),
            Column("r2_gain_noise", "half of its 95 % interval, by document; empty below 8 documents"),
        ),
        rows,
        Points(
            "active latents a row",
            "R2",
            [float(row[2] or 0.0) for row in rows],
            [float(row[3] or 0.0) for row in rows],
            [OWN, *(f"{PURSUIT}, {n} steps" for n in found.after)],
            log_x=True,
        ),
    )
