"""Which tokens a latent promotes and suppresses: its decoder row through the model's final norm and unembedding."""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.reading.routes import route_in
from strata_sae.pipeline.reading.unembedding import UNEMBEDDING, KeptHead
from strata_sae.stores import ActivationStore

STREAM = re.compile(r"blocks\.\d+\.hook_(resid_pre|resid_post|attn_out|mlp_out)")
"""Sites whose rows are the residual stream, or are added to it as they are."""


class Effects(NamedTuple):
    """(token id, change of its logit per unit of the latent's activation), the strongest first."""

    promoted: list[tuple[int, float]]
    suppressed: list[tuple[int, float]]


def logit_effects(sae: CodedSAE, latent: int, n: int) -> Effects | None:
    """The n tokens whose logits a latent raises the most, and the n that it lowers the most; ties by token id.

    The direct path only, as in logit attribution: W_dec of the latent, times the final norm's weight (its mean removed
    first where that is a LayerNorm), times W_U; what later blocks make of the direction, the norm's division by the
    size of the row, biases and what `Head.left_out` names are left out.
    None: see `why_none`. Raises: StoreError if the store's file is damaged.
    """
    if (head := kept_head(sae)) is None or why_none(sae) is not None:
        return None
    effects_V = head.head.effects(sae.W_dec[latent])
    rising_V = np.argsort(effects_V, kind="stable")
    falling_V = np.argsort(-effects_V, kind="stable")
    chosen = [[(int(token), float(effects_V[token])) for token in order[:n]] for order in (falling_V, rising_V)]
    return Effects(*chosen)


def why_none(sae: CodedSAE) -> str | None:
    """Why no effect on the logits is known of an SAE; None if it is."""
    writes = route_in(sae.trained.record).writes
    if len(writes) > 1 or not STREAM.fullmatch(writes[0]):
        return f"{', '.join(writes)} is no residual stream and is not added to it, so W_U does not apply to W_dec"
    head = kept_head(sae)
    if head is None:
        return "the store keeps no unembedding; extract it with store.unembedding: true"
    if head.head.W_U.shape[1] != sae.W_dec.shape[1]:
        return f"W_U is {head.head.W_U.shape[1]} wide, and W_dec {sae.W_dec.shape[1]}"
    return None


def token_text(sae: CodedSAE, token_id: int) -> str:
    """Text of a token of the vocabulary, whether it occurs in the store or not, for people."""
    head = kept_head(sae)
    token = None if head is None else head.tokens.get(token_id)
    return f"<{token_id}>" if token is None else token.text


def kept_head(sae: CodedSAE) -> KeptHead | None:
    """The head that the SAE's stores keep, if one does."""
    with_head = [store for store in sae.stores.stores if UNEMBEDDING in store.extras]
    return _opened(with_head[0]) if with_head else None


@lru_cache(maxsize=2)
def _opened(store: ActivationStore) -> KeptHead:
    """Of the last two stores: 57 MB of SmolLM2's, 1.2 GB of a vocabulary of 256,000 at 2,304."""
    return KeptHead(store)
