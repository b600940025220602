"""`strata export`: a trained SAE in the files of another library, or of a viewer."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands.arguments import config_file_of, guard
from strata_sae.pipeline.paths import reader_of

log = logging.getLogger(__name__)

Address = Annotated[
    Path,
    typer.Argument(
        metavar="RUN/VARIANT",
        parser=reader_of("RUN/VARIANT"),
        help="A trained SAE, for example runs/demo/topk@blocks.8.hook_resid_post; the site may be left out if there "
        "is one only.",
    ),
]
FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="saelens, dictionary_learning or sparsify; of its codes: neuronpedia, delphi, circuit_tracer or parquet.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", parser=reader_of("--out"), help="A folder that does not exist yet, or is empty."
    ),
]


def export(context: typer.Context, sae: Address, format: FormatName, out: Out) -> None:
    """A trained SAE as another library reads it: weights in raw units, its store, config and scores as metadata.

    Or its codes as a viewer reads them: text with activations, labels, neighbours; first make them: strata codes RUN.
    """
    guard(context, config_file_of(sae), [])
    from strata_sae.pipeline.commands.stages import shows_progress
    from strata_sae.pipeline.export.exporting import export as write

    log.info("%s: %s as %s", write(sae, format, out, show_progress=shows_progress()), sae.name, format)
