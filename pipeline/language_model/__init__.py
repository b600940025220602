"""A causal language model: its activations, its logits, and what it computes from other activations.

`describe` gives what a plan needs (widths and provenance) without reading the weights into memory. `load` gives a
`Capture`, which runs the model up to its deepest site, or with `whole=True` a `WholeModel`, which runs all of it;
`Splice` writes at a site.
"""
