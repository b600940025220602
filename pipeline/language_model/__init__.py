"""A causal language model: its activations, its logits, and what it computes from other activations.

`describe` gives what a plan needs (widths and provenance) without reading the weights into memory. `load` gives a
`Capture`, which runs the model up to its deepest site, or with `whole=True` a `WholeModel`, which runs all of it;
`Splice` writes at a site.
"""

from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.inputs import restarted_positions
from strata_sae.pipeline.language_model.loading import Description, compare_model, describe, load, load_tokenizer
from strata_sae.pipeline.language_model.probe import PROBES, SAME_ROW, assumptions, check_isolation, check_sites
from strata_sae.pipeline.language_model.sites import FAMILIES
from strata_sae.pipeline.language_model.splice import Splice, WholeModel
from strata_sae.pipeline.language_model.tokens_text import GivenBack, given_back_line, token_bytes, token_texts
from strata_sae.pipeline.language_model.transformers_library import Tokenizer

__all__ = [
    "FAMILIES",
    "PROBES",
    "SAME_ROW",
    "Capture",
    "Description",
    "GivenBack",
    "Splice",
    "Tokenizer",
    "WholeModel",
    "assumptions",
    "check_isolation",
    "check_sites",
    "compare_model",
    "describe",
    "given_back_line",
    "load",
    "load_tokenizer",
    "restarted_positions",
    "token_bytes",
    "token_texts",
]
