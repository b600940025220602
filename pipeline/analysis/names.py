"""Names of latents for people: the number, and the tokens of its label where there is one."""

from collections.abc import Callable

from strata_sae.pipeline.pages.text import cut
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.windows import token_text

N_TOKENS = 3
LONGEST_TOKEN = 16
LEAST_SHARE = 0.05
"""Of the rows of its commonest token: rarer ones say nothing in a name of three."""


def words_of(run: CodedRun, sae: CodedSAE) -> Callable[[int], str]:
    """What gives the label of a latent: ` the · a · an`, its commonest tokens; empty where there is no label."""
    labels = sae.labels
    if labels is None:
        return lambda latent: ""

    def words(latent: int) -> str:
        counts = labels.token_counts[latent]
        often = (labels.token_ids[latent] >= 0) & (counts >= LEAST_SHARE * counts.max(initial=0))
        ids = labels.token_ids[latent][often].tolist()
        return " · ".join(list(dict.fromkeys(shortened(token_text(run, token_id)) for token_id in ids))[:N_TOKENS])

    return words


def names_of(run: CodedRun, sae: CodedSAE) -> Callable[[int], str]:
    """What gives a latent's number with its label: `17   the · a`."""
    words = words_of(run, sae)
    return lambda latent: f"{latent}  {found}" if (found := words(latent)) else str(latent)


def shortened(text: str) -> str:
    """A token's text without the space around it, cut to what fits beside a bar; `␣` where it is nothing but space."""
    return cut(text.strip(" ") or "␣", LONGEST_TOKEN)
