"""One HTML page and one CSV file from a run folder. Reads JSON and YAML, hashes the rest; no tensors, no model."""
