"""Formats of viewers: what the codes of an SAE and the text of its rows are written as, one file each."""

from collections.abc import Callable
from pathlib import Path

from strata_sae.pipeline.export.viewers import circuit_tracer, delphi, neuronpedia, parquet
from strata_sae.pipeline.export.viewers.subject import Subject

VIEWERS: dict[str, Callable[[Subject, Path], None]] = {
    "neuronpedia": neuronpedia.write,
    "delphi": delphi.write,
    "circuit_tracer": circuit_tracer.write,
    "parquet": parquet.write,
}
"""By the name that `--format` takes. Each fills an empty folder."""
