"""One HTML page and one CSV file from a run folder. Reads JSON and YAML, and hashes the rest: no tensors, no store, no model."""
