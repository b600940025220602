"""k-sparse probes: how much of a label a few latents know, beside all numbers of the row."""
