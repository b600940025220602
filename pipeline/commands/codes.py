"""`strata codes`: the sparse codes of all latents on all rows."""

from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands.arguments import Overrides
from strata_sae.pipeline.paths import reader_of

CodedRunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", parser=reader_of("RUN"), help="Folder of a run, for example runs/demo.")
]


def codes(run: CodedRunFolder, overrides: Overrides) -> None:
    """The sparse codes of all latents on all rows of the store, for analyze and explore; no model is needed."""
    from strata_sae.pipeline.codes.build import build_codes
    from strata_sae.pipeline.outside import outside_stores

    build_codes(outside_stores(run, "RUN"), overrides)
