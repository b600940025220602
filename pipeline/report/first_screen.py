"""What stands beside the statement: the figure of one site, and one latent with its strongest tokens."""

from collections import Counter
from typing import NamedTuple

from strata_sae.pipeline.report.ranking import ahead
from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.runs.evaluation_records import Example, Latent

N_EXAMPLES = 3
"""Rows of the example."""


class FirstExample(NamedTuple):
    """A latent of an SAE, and its strongest examples."""

    sae: Trained
    latent: Latent
    examples: list[Example]


def picture_site(run: Run) -> str | None:
    """The first site at which reconstruction was scored."""
    return next((site for site in run.sites for sae in run.at(site) if sae.value("r2_pooled") is not None), None)


def first_example(run: Run) -> FirstExample | None:
    """Of the SAE that is ahead, else of the first one that has examples: the latent whose tokens are most alike."""
    leading = [(name, site) for site in run.sites for name in ahead(run, site)]
    order = [sae for place in leading for sae in run.trained if (sae.variant, sae.site) == place]
    order += [sae for site in run.sites for sae in run.at(site)]
    for sae in order:
        found = [latent for latent in (sae.examples.latents if sae.examples else []) if latent.examples]
        if found:
            best = max(found, key=_alike)
            return FirstExample(sae, best, best.examples[:N_EXAMPLES])
    return None


def _alike(latent: Latent) -> float:
    """Share of the examples whose token is the most frequent one, but for spaces and case; a space alone is none."""
    words = Counter(example.tokens[example.index].strip().lower() for example in latent.examples)
    return max((n for word, n in words.items() if word), default=0) / len(latent.examples)
