"""One HTML page and one CSV file from a run folder. Reads JSON and YAML only: no tensors, no store, no model."""
