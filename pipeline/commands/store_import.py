"""`store import`: cached activations of another program as a store."""

from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands.stages import shows_progress
from strata_sae.pipeline.commands.store import NewFolder
from strata_sae.pipeline.errors import LARGEST_INT, ConfigError
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import reader_of


def store_import(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", parser=reader_of("SRC"), help="Folder that another program wrote.")
    ],
    out: NewFolder,
    site: Annotated[
        list[str],
        typer.Option(
            "--site",
            metavar="[THEIRS=]NAME",
            default_factory=list,
            show_default=False,
            help="What a site is called in the store, where the files do not say it. Repeat for several.",
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="saelens, dictionary_learning, activault, saev, npy or safetensors; if not given, what the files say."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_INT, help="Rows of a sequence, where the files hold rows [N, M] alone."),
    ] = None,
    bos: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Token id of BOS, to be left out later.")
    ] = None,
    heldout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the documents, the last ones, to score SAEs on.")
    ] = 0.1,
    encoding: Annotated[
        str | None, typer.Option(help="bfloat16, int8, float32 or float16; that of the files if not given.")
    ] = None,
) -> None:
    """Activations that SAELens, dictionary_learning, activault, saev or NumPy left on a disk, as a store."""
    from strata_sae.pipeline.imports.activations.import_store import Asked, import_store
    from strata_sae.pipeline.progress import Progress

    outside_stores(out, "OUT", may_be_one=True)
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"OUT: {out} lies inside SRC, which stays as it is; choose a folder outside of it")
    asked = Asked(format, site, context, bos, heldout, encoding)
    with Progress("import", None, "row", shown=shows_progress()) as bar:
        made = import_store(source, out, asked, announce=bar.expect, advance=bar.advance)
    plan = made.store.plan
    start, stop = plan.splits["heldout"]
    typer.echo(
        f"{out}: finished, {plan.n_rows:,} rows of {plan.n_documents:,} documents, {stop - start:,} of the rows held "
        f"out, sites {', '.join(plan.sites)}, store {made.store.id[:12]}"
    )
    if made.activations.left_out:
        typer.echo(f"not in it: {', '.join(made.activations.left_out)}")
