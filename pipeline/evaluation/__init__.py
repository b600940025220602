"""Scores of trained SAEs, from the store and the run folder alone."""
