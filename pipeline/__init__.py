"""Strata's stages and what they are made of."""

if __name__ == "pipeline":  # a second copy of every class, unequal to the first
    raise ImportError("import strata_sae.pipeline")
