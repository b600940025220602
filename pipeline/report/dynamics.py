"""How training went inside each SAE: every logged quantity, grouped into the panels of the page, and the snapshots."""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from pydantic import JsonValue

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.runs.migration import JsonObject

MAX_PANEL_POINTS = 150
"""Points of a line in a panel, which is half as wide as a figure of all variants."""
DIGITS = 6
"""Significant digits of a number on the page; a pixel shows three."""
IN_OTHER_FIGURES = re.compile(r"step|rows|loss|l0|batch_r2|dead_latents|mixing/.+|heldout/(loss|r2)")
"""Names that a figure or a table of all variants shows."""


class Panel(NamedTuple):
    """A figure of one SAE: the quantities whose names match, each a line named by the pattern's group."""

    key: str
    title: str
    patterns: tuple[str, ...]
    scale: Literal["linear", "log", "relative"] = "linear"
    """`log` where all values are above 0; `relative`: each line over its largest absolute value."""


PANELS = (
    Panel("losses", "Loss of each term", (r"loss/(.+)",), "log"),
    Panel("loss_shares", "Share of the loss", (r"(.+)/loss_share",)),
    Panel("gradient_norms", "Gradient norm of each term", (r"gradient_norm/(.+)", r"(gradient_norm)"), "log"),
    Panel("gradient_shares", "Decoder gradient of each term, its norm over that of the sum", (r"(.+)/gradient_share",)),
    Panel(
        "schedules",
        "Schedules, over their largest values",
        (r"(learning_rate)", r"(.+/weight)", r"(orthogonality/threshold)", r"(.+/p)", r"(p_anneal/scale)"),
        "relative",
    ),
    Panel("threshold", "Inference threshold, running mean", (r"(threshold)",)),
    Panel("competition", "Competition c of watched pairs", (r"orthogonality/c_(\d+_\d+)",)),
    Panel("pair_cosines", "Decoder cosine of watched pairs", (r"orthogonality/cos_(\d+_\d+)",)),
    Panel("pair_correlations", "Correlation of their activations", (r"orthogonality/correlation_(\d+_\d+)",)),
    Panel("competing_pairs", "Pairs that compete", (r"orthogonality/(competing_pairs)",)),
    Panel(
        "similarities",
        "Mean similarities",
        (
            r"orthogonality/(mean_abs_cos)",
            r"orthogonality/(mean_abs_product)",
            r"ort_sae/(mean_max_cos)",
            r"(decoder_max_cosine_mean)",
        ),
    ),
    Panel("left_out", "Share of the penalty that is left out", (r"orthogonality/(share_left_out)",)),
)
OTHERS = Panel("others", "Other quantities, over their largest values", (), "relative")
"""What no other panel takes, so that nothing logged is left out."""
SNAPSHOTS = {
    "pairs": "Pairs by their cosine, at shares of the run",
    "largest": "Latents by their largest cosine, at shares of the run",
    "matrix": "Cosines of the watched latents, at shares of the run",
}
"""Panels made of snapshots, and their titles."""

DEFINITIONS = {
    r"loss/.+": ("loss/<term>", "The weighted loss of one term."),
    r".+/loss_share": ("<term>/loss_share", "Its loss over the sum of the absolute losses of all terms."),
    r"gradient_norm/.+": (
        "gradient_norm/<term>",
        "Norm of the gradient of one term alone, all parameters together, before projection and clip.",
    ),
    r".+/gradient_share": (
        "<term>/gradient_share",
        "Norm of its gradient of W_dec over the norm of the sum of all terms'. Shares may exceed 1 where terms oppose.",
    ),
    r".+/weight": ("<term>/weight", "The weight that the settings give the term at that step."),
    r"learning_rate": ("learning_rate", "The rate that schedule and plateau give."),
    r".+/p": ("<term>/p", "Exponent of the term's penalty at that step."),
    r"p_anneal/scale": ("p_anneal/scale", "Factor that keeps the penalty as large as before when p changes."),
    r"frequency_weighted_lp/lambda_.+": (
        "frequency_weighted_lp/lambda_min, _mean, _max",
        "Smallest, mean and largest weight that the term gives a latent.",
    ),
    r"two_child_cosine/child_parent_ratio": (
        "two_child_cosine/child_parent_ratio",
        "Mean over children of the running mean of a child's code divided by its parent's.",
    ),
    r"ort_sae/mean_max_cos": (
        "ort_sae/mean_max_cos",
        "Mean over latents of the largest cosine of its decoder row with another row of its chunk.",
    ),
    r"resampled_latents": ("resampled_latents", "Dead latents that were started again after that step."),
    r"gradient_norm": ("gradient_norm", "Norm of all gradients together, as the clip measures it."),
    r"threshold": ("threshold", "Running mean of the smallest selected activation."),
    r"orthogonality/threshold": ("orthogonality/threshold", "Mask intersection from which two latents compete."),
    r"orthogonality/c_.+": ("orthogonality/c_<i>_<j>", "Mean of c_ij and c_ji of a watched pair in one batch."),
    r"orthogonality/cos_.+": ("orthogonality/cos_<i>_<j>", "Cosine of the two decoder rows."),
    r"orthogonality/correlation_.+": (
        "orthogonality/correlation_<i>_<j>",
        "Pearson correlation of the two activations over the rows of one batch; absent where one is constant.",
    ),
    r"orthogonality/mean_abs_.+": (
        "orthogonality/mean_abs_cos, mean_abs_product",
        "Mean absolute inner product of the decoder rows (or of the codes, over B) of the pairs that compete.",
    ),
    r"orthogonality/share_left_out": (
        "orthogonality/share_left_out",
        "Share of the sigmoid's sum over all pairs that pairs never active together have: sigmoid_co_active omits it.",
    ),
}
"""Pattern -> the name on the page, and what it is. Every number is of one training batch."""


class Dynamics(NamedTuple):
    """What the panels of an SAE show."""

    series: JsonObject
    """Quantity -> its steps and values."""
    panels: JsonObject
    """Panel -> its lines as [name, quantity]; none for panels of snapshots."""
    snapshots: list[JsonValue]


def dynamics_of(sae: Trained) -> Dynamics:
    """Everything that was logged of an SAE."""
    numbers = [(line.step, line.numbers()) for line in sae.curves]
    series: JsonObject = {}
    for name in sorted({name for _, of_line in numbers for name in of_line} - {"step", "rows"}):
        points = [(step, value) for step, of_line in numbers if (value := of_line.get(name)) is not None]
        if points:
            series[name] = _series(points)
    ones = {name for name in series if name.endswith("/weight") and all(line.value(name) == 1 for line in sae.curves)}
    snapshots: list[JsonValue] = [
        {"step": line.step, **line.similarity.model_dump()} for line in sae.curves if line.similarity is not None
    ]
    # A weight that the settings leave at 1 says nothing.
    panels: JsonObject = {key: [*lines] for key, lines in _panels([name for name in series if name not in ones])}
    watched = any(line.similarity and line.similarity.latents for line in sae.curves)
    panels |= {key: [] for key in SNAPSHOTS if snapshots and (key != "matrix" or watched)}
    return Dynamics(series, panels, snapshots)


def _series(points: list[tuple[int, int | float]]) -> JsonObject:
    kept = thinned(points, MAX_PANEL_POINTS)
    return {"step": [step for step, _ in kept], "value": [float(f"{value:.{DIGITS}g}") for _, value in kept]}


def thinned(points: list[tuple[int, int | float]], most: int) -> list[tuple[int, int | float]]:
    """At most so many of the points, evenly, with the last one kept."""
    stride = max(1, -(-len(points) // most))
    return points[(len(points) - 1) % stride :: stride]


def _panels(names: list[str]) -> Iterator[tuple[str, list[JsonValue]]]:
    """Each panel that takes any of the names, and its lines."""
    taken: set[str] = set()
    for panel in PANELS:
        found = [
            (match[1], name) for pattern in panel.patterns for name in names if (match := re.fullmatch(pattern, name))
        ]
        taken |= {name for _, name in found}
        if found:
            yield panel.key, [[_label(label), name] for label, name in found]
    others = [name for name in names if name not in taken and not IN_OTHER_FIGURES.fullmatch(name)]
    if others:
        yield OTHERS.key, [[name, name] for name in others]


def _label(label: str) -> str:
    """A pair of latents as people write it; every other name as it is."""
    return label.replace("_", ", ") if label[0].isdigit() else label


def shown_panels(used: Iterable[str]) -> list[JsonValue]:
    """The panels of these keys in the page's order: key, title and scale."""
    every = [*PANELS, OTHERS, *(Panel(key, title, ()) for key, title in SNAPSHOTS.items())]
    keys = set(used)
    return [{"key": p.key, "title": p.title, "scale": p.scale} for p in every if p.key in keys]


def quantities(run: Run) -> list[str]:
    """Everything that any SAE logged, for the choice of what to compare between variants."""
    return sorted(run.logged - {"step", "rows"})


def dynamics_definitions(run: Run) -> dict[str, str]:
    """What the names of the panels mean, of those that were logged."""
    return {
        name: text
        for pattern, (name, text) in DEFINITIONS.items()
        if any(re.fullmatch(pattern, logged) for logged in run.logged)
    }
