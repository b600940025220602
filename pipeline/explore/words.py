"""What language models, or people, say that latents mean: read once for each SAE that is open."""

from functools import lru_cache

from strata_sae.pipeline.queries.explanations import Explained, Explanations, explanations_of
from strata_sae.pipeline.queries.opened import CodedSAE

MOST_SAES = 256
"""Whose explanations stay in memory."""


@lru_cache(maxsize=MOST_SAES)
def explanations(sae: CodedSAE) -> Explanations:
    """All that is known of an SAE, as it was when it was first asked for. Raises: CheckpointError for damaged files."""
    return explanations_of(sae)


def holding(sae: CodedSAE, text: str) -> list[tuple[int, Explained]]:
    """The latents whose explanation holds a text, large and small letters alike; by balanced accuracy, then latent."""
    known, wanted = explanations(sae), text.strip().casefold()
    if not wanted or not len(known):
        return []
    all_of = ((latent, known.of(latent)) for latent in range(sae.d_sae))
    found = [(latent, one) for latent, one in all_of if one is not None and wanted in one.text.casefold()]
    return sorted(found, key=lambda pair: (-(pair[1].balanced_accuracy or 0.0), pair[0]))


def how_good(explained: Explained) -> str:
    """Who wrote an explanation and how well it does, in words."""
    rated = [] if explained.rating is None else [f"rated {explained.rating} of 5"]
    return "; ".join([f"by {explained.by or 'nobody who is named'}", explained.score or "not scored here", *rated])
