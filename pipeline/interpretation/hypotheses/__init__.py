"""Hypotheses: which latents, and which concepts in words, tell a number that each document has."""
