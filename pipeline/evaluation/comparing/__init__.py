"""Differences between SAEs, with intervals over documents and seeds."""
