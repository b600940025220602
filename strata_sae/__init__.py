"""Strata: extract a language model's activations once, train many sparse autoencoders on them."""
