"""The model's head beside the rows: what `store.unembedding` writes into the store's extras."""

import numpy as np
import torch

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.tokens_text import token_bytes
from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.pipeline.language_model.unembedding import KEY, FoundHead, read_head
from strata_sae.pipeline.reading.unembedding import UNEMBEDDING, UNEMBEDDING_TOKENS, Head
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import tokens_json

TOKEN_BYTES = 40
"""Upper bound of what a token's text takes in the file, of vocabularies seen: id, quotes and its bytes in hex."""


def unembedding_files(settings: ModelSettings, found: FoundHead, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The extras by name. In memory: the unembedding in the model's dtype, and twice in float16 while it is written.

    Raises: ConfigError as `read_head`, or where a weight is no finite float16.
    """
    read = read_head(settings, found)
    W_U = read.W_U.to(torch.float16).numpy()
    if not np.isfinite(W_U).all():
        raise ConfigError(
            f"{KEY}: the unembedding holds a weight that is not finite as float16 (65,504 at most); set it to false"
        )
    weight_M = read.norm_weight.to(torch.float32).numpy()
    head = Head(W_U, weight_M, read.norm, read.eps, found.left_out)
    tokens = token_bytes(tokenizer, range(found.n_tokens))
    return {UNEMBEDDING: head.to_bytes(), UNEMBEDDING_TOKENS: tokens_json(tokens)}


def unembedding_bytes(found: FoundHead) -> int:
    """Size of these files, at most."""
    return found.n_tokens * (2 * found.width + TOKEN_BYTES) + 4 * found.width + 1024


def told(found: FoundHead) -> str:
    """What the plan says of them."""
    left_out = f"; left out: {found.left_out}" if found.left_out else ""
    return (
        f"{found.n_tokens:,} tokens x {found.width} in float16 and their text, {unembedding_bytes(found):,} bytes "
        f"at most{left_out}"
    )
