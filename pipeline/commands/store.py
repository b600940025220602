"""The commands of `store`: an activation store as a thing to look at, to trust, to cut and to share."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import Yes, ask_to_delete
from strata_sae.pipeline.commands.stages import shows_progress
from strata_sae.pipeline.errors import LARGEST_INT, ConfigError
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import data_root, place_reader_of, reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.progress import Progress

store_app = typer.Typer(help="Look at an activation store, check, cut, share or delete it.", rich_markup_mode=None)

_ROW = re.compile(r"[0-9]{1,18}")
_SHOWN = 60

StoreFolder = Annotated[
    Path, typer.Argument(metavar="STORE", parser=reader_of("STORE"), help="Folder of an activation store.")
]
StoreAnywhere = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        parser=place_reader_of("STORE"),
        help="Folder or URL (s3://, gs://, az://, https://, hf://datasets/).",
    ),
]
NewFolder = Annotated[Path, typer.Argument(metavar="OUT", parser=reader_of("OUT"), help="Folder of the new store.")]
Place = typer.Argument(
    metavar="URL", parser=place_reader_of("URL"), help="s3://, gs://, az://, https://, hf://datasets/ or a folder."
)
Sites = Annotated[
    list[str], typer.Option("--site", default_factory=list, show_default=False, help="Repeat for several.")
]
Rows = Annotated[str | None, typer.Option("--rows", metavar="START:STOP", help="Rows to keep; all if not given.")]


@store_app.command("list")
def list_(
    root: Annotated[
        Path | None,
        typer.Argument(
            metavar="ROOT",
            parser=reader_of("ROOT"),
            help="Folder that stores lie in; STRATA_DATA or data if not given.",
        ),
    ] = None,
) -> None:
    """The stores in a folder: model, sites, rows, encoding, bytes, id, age."""
    from strata_sae.stores import list_stores, stores_table

    typer.echo(stores_table(list_stores(data_root() if root is None else root)))


@store_app.command()
def info(
    store: StoreAnywhere, as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False
) -> None:
    """What a store holds."""
    from strata_sae.stores import ActivationStore, summary_text

    summary = ActivationStore.open(store).summary()
    typer.echo(json.dumps(summary, indent=2) if as_json else summary_text(summary))


@store_app.command()
def verify(
    store: StoreFolder,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every byte and compare its hash.")] = False,
) -> None:
    """Check that a store is complete and undamaged."""
    from strata_sae.stores import StoreError, verified_level, verify

    problems = verify(store, deep=deep)
    if problems:
        raise StoreError("\n".join(problems))
    typer.echo(f"{store}: no problem found (checked: {verified_level(store, deep)})")


@store_app.command("spot-check")
def spot_check(
    store: StoreFolder,
    rows: Annotated[int, typer.Option(min=1, max=LARGEST_INT, help="Rows to compare.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_INT, help="Names the choice of rows.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            parser=place_reader_of("--model"),
            help="Where the model is now, if not where the store says.",
        ),
    ] = None,
) -> None:
    """Run the model again on random rows and compare: what no checksum finds."""
    from strata_sae.pipeline.extractor.spot_check import spot_check
    from strata_sae.stores import read_plan

    if rows > (n_rows := read_plan(store).n_rows):
        raise ConfigError(f"--rows: {rows} is more than the {n_rows} rows of {store}; lower it")
    typer.echo("\n".join(spot_check(store, n_rows=rows, seed=seed, model_path=model)))


@store_app.command("slice")
def slice_(
    store: StoreAnywhere,
    out: NewFolder,
    site: Sites,
    rows: Rows = None,
    encoding: Annotated[str | None, typer.Option(help="bfloat16, int8, float32 or float16.")] = None,
    compressor: Annotated[str | None, typer.Option(help="none, planes or zstd.")] = None,
) -> None:
    """A smaller store: some sites, a range of rows, another encoding."""
    from strata_sae.stores import ActivationStore, slice_store

    outside_stores(out, "OUT", may_be_one=True)
    source = ActivationStore.open(store)
    sites = site or list(source.plan.sites)
    first, last = _row_range(rows) or (0, source.plan.n_rows)
    with _progress("slice", max(0, last - first) * len(sites), "row") as bar:
        made = slice_store(
            source,
            out,
            sites=site or None,
            rows=_row_range(rows),
            encoding=encoding,
            compressor=compressor,
            advance=bar.advance,
        )
    start, stop = made.plan.splits["heldout"]
    held_out = f"{stop - start:,} of them held out" if stop > start else "none of them held out, to score SAEs on"
    typer.echo(f"{out}: finished, {made.plan.n_rows:,} rows, {held_out}, store {made.id[:12]}")


@store_app.command()
def shuffle(
    store: StoreAnywhere,
    out: NewFolder,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_INT, help="Names the order.")] = 0,
) -> None:
    """The same rows in random order within each split, for disks and trainers that read in sequence."""
    from strata_sae.stores import ActivationStore, shuffle_store

    outside_stores(out, "OUT", may_be_one=True)
    source = ActivationStore.open(store)
    with _progress("shuffle", source.plan.n_rows, "row") as bar:
        made = shuffle_store(source, out, seed=seed, advance=bar.advance)
    typer.echo(f"{out}: finished, {made.plan.n_rows:,} rows, store {made.id[:12]}")


@store_app.command("add-sites")
def add_sites(
    store: StoreFolder,
    out: NewFolder,
    site: Sites,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG", parser=reader_of("--config"), help="YAML whose `model` says where the model is now."
        ),
    ] = None,
) -> None:
    """New sites of the same model, row by row beside a store's, as a store of their own."""
    from strata_sae.pipeline.config import load
    from strata_sae.pipeline.extractor.add_sites import add_sites

    if not site:
        raise ConfigError("--site: name at least one, for example --site blocks.4.hook_resid_post")
    outside_stores(out, "OUT", may_be_one=True)
    made = add_sites(store, site, out, model=load(config, []).model if config else None, show_progress=shows_progress())
    typer.echo(f"{out}: finished, {made.plan.n_rows:,} rows, store {made.id[:12]}")


@store_app.command()
def delete(
    store: StoreFolder,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Also a store that runs were trained on.")] = False,
) -> None:
    """Delete a store. One that is being filled or read by training, and files of others in it, are refused."""
    from strata_sae.stores import deletable, delete_store

    found = deletable(store)
    if found.store_id is not None:
        _refuse_in_use(store, found.store_id, force)
    ask_to_delete(found.folders, yes)
    delete_store(store)
    typer.echo(f"{store}: deleted")


def _refuse_in_use(store: Path, store_id: str, force: bool) -> None:
    """Runs are looked for in runs/, of this folder and of the one that the stores' folder lies in.

    Raises: StoreError if one is being trained on the store, or without `force` if one was.
    """
    from strata_sae.pipeline.runs.listing import runs_of_store
    from strata_sae.stores import StoreError

    runs = runs_of_store(store_id, [Path("runs"), store.resolve().parent.parent / "runs"])
    if written := [str(run.path) for run in runs if run.is_written]:
        raise StoreError(f"{store}: is in use by {', '.join(written)}, which is being written now; stop that first")
    if runs and not force:
        named = ", ".join(f"{run.path} ({run.n_saes} SAE{'' if run.n_saes == 1 else 's'})" for run in runs)
        raise StoreError(
            f"{store}: SAEs of {named} were trained on it; without it they cannot be evaluated again, and no variant "
            f"can be added. With --force it is deleted nevertheless"
        )


@store_app.command()
def push(store: StoreFolder, url: Annotated[str, Place]) -> None:
    """Copy a store to where others can pull it; goes on where it stopped."""
    from strata_sae.stores import local_folder, push

    if (folder := local_folder(url)) is not None:
        outside_stores(folder, "URL", may_be_one=True)
    with _progress("push", None, "byte") as bar:
        store_id = push(store, url, announce=bar.expect, advance=bar.advance)
    typer.echo(f"{url}: complete, store {store_id}")


@store_app.command()
def pull(
    url: Annotated[str, Place],
    out: NewFolder,
    site: Sites,
    rows: Rows = None,
    expect: Annotated[str | None, typer.Option(metavar="ID", help="The store id you were given.")] = None,
) -> None:
    """Fetch a store, every file checked; with --site or --rows, a store of only these."""
    if site or rows is not None:
        if expect is not None:
            raise ConfigError("--expect names a whole store; open the part's parent id with store info instead")
        slice_(url, out, site, rows)
        return
    from strata_sae.stores import pull

    outside_stores(out, "OUT", may_be_one=True)
    with _progress("pull", None, "byte") as bar:
        store_id = pull(url, out, expected_id=expect, announce=bar.expect, advance=bar.advance)
    typer.echo(f"{out}: complete, store {store_id}")


def _row_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    start, colon, stop = text.partition(":")
    if not (colon and _ROW.fullmatch(start) and _ROW.fullmatch(stop) and int(start) < int(stop)):
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise ConfigError(f"--rows: {shown!r} is no range of rows; write START:STOP, for example 0:65536")
    return int(start), int(stop)


def _progress(title: str, total: int | None, unit: str) -> "Progress":
    from strata_sae.pipeline.progress import Progress

    return Progress(title, total, unit, shown=shows_progress())
