"""The largest numbers that a person may ask for; apart from the config, so that the command line need not load it."""

LARGEST_INT = 2**63 - 1
"""Of any integer: what a record, a file's offset and a seed of every library can hold."""
LARGEST_FLOAT = 3.4e38
"""Of any other number: training is float32, where more is infinite."""
