"""Fidelity: recall, precision, F1 and correlation of HypotheSAEs (2.0.1, interpret_neurons.py: `_compute_metrics`).

The windows are those of its `sample_top_zero`: the latent's largest values, and windows on which it is silent. It asks
about one text in a request; here there are several in each, asked as detection asks. Where HypotheSAEs has 0 for a
number that is not defined (precision if nothing is named, the correlation of constant answers) here is null.
"""

from strata_sae.pipeline.interpretation.excerpts import Material
from strata_sae.pipeline.interpretation.scorers.detection import PROMPT
from strata_sae.pipeline.interpretation.scorers.scorer import Scorer
from strata_sae.pipeline.interpretation.scorers.trials import Trial, holds_any, plain, plain_texts


def _trials(material: Material, seed: int) -> list[Trial]:
    active = [excerpt for excerpt in material.active if excerpt.kind == "top"]
    return plain(active + [excerpt for excerpt in material.silent if excerpt.kind == "zero"])


FIDELITY = Scorer(
    purpose="fidelity",
    prompt=PROMPT,
    trials=_trials,
    shown=plain_texts,
    label_says=holds_any,
    is_of_population=False,
    has_correlation=True,
)
"""Its active windows are the largest alone, so its recall is not that of the population's active windows."""
