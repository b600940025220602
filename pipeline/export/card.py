"""The page that a hub shows of a pushed SAE, or run: what it was trained on, its scores, how to load it, its limits."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from pydantic import JsonValue

from strata_sae.pipeline.export.card_scores import losses_table, overview_table, points_of, scores_of, scores_table
from strata_sae.pipeline.export.card_usage import HUB, are_imported, limits, usage
from strata_sae.pipeline.export.card_words import words_of
from strata_sae.pipeline.export.markdown import escaped
from strata_sae.pipeline.export.picture import density_picture, frontier_picture
from strata_sae.pipeline.export.shared import FORMS, SharedRun, SharedSAE
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.runs.addresses import run_of
from strata_sae.pipeline.runs.evaluation_records import StoreSummary
from strata_sae.pipeline.runs.record_files import read_record, read_yaml
from strata_sae.pipeline.strict_yaml import parse
from strata_sae.stores import Bundle, card_head, fenced_json, plain_text
from strata_sae.stores.files.canonical import Json

CARD, PICTURE = "README.md", "README.svg"


def pages_of(shared: SharedRun | SharedSAE, bundle: Bundle, url: str) -> dict[str, bytes]:
    """README.md, and README.svg where there is something to draw. Text of strangers in them becomes no markup."""
    saes = shared.saes if isinstance(shared, SharedRun) else [shared]
    picture = _picture(shared)
    store = _store_of(saes[0])
    parts = [
        _head(saes, store, bundle),
        f"# {_title(shared, store)}",
        _lead(shared, store),
        f"![{_caption(shared)}]({PICTURE})" if picture else "",
        "## Where it comes from" if are_imported(saes) else "## What it was trained on",
        _trained_on(saes, store),
        "## Settings",
        _settings(shared),
        "## Scores",
        *_scores(shared),
        *(words_of(shared) if isinstance(shared, SharedSAE) else []),
        usage(shared, bundle, url),
        limits(shared),
    ]
    pages = {CARD: ("\n\n".join(part for part in parts if part) + "\n").encode("utf-8")}
    return pages | ({PICTURE: picture.encode("utf-8")} if picture else {})


def front_page(pages: Mapping[str, bytes], url: str) -> bytes:
    """The card as the front page of the repository in whose folder the rest lies: a link begins at the front."""
    found = HUB.fullmatch(url)
    folder = f"{found[3]}/" if found and found[3] else ""
    return pages[CARD].replace(f"]({PICTURE})".encode(), f"]({folder}{PICTURE})".encode())


def _picture(shared: SharedRun | SharedSAE) -> str | None:
    if isinstance(shared, SharedRun) and len(shared.saes) > 1:
        return frontier_picture(*points_of(shared.saes))
    metrics = (shared.saes[0] if isinstance(shared, SharedRun) else shared).metrics
    return density_picture(metrics.density_histogram, metrics.n_rows) if metrics else None


def _caption(shared: SharedRun | SharedSAE) -> str:
    several = isinstance(shared, SharedRun) and len(shared.saes) > 1
    return "R² against L0 on held-out rows" if several else "How often latents are active on held-out rows"


def _store_of(sae: SharedSAE) -> StoreSummary | None:
    """What evaluation noted of the store, if it is that of this SAE. Raises: CheckpointError if the file is damaged."""
    path = run_of(sae.trained.folder).store
    if not path.is_file():
        return None
    store = read_record(path, StoreSummary).record
    return store if sae.trained.record.store_id in {store.store_id, *store.siblings} else None


def _model(store: StoreSummary | None) -> str:
    """The model's name, without the way to it where it is a path of the machine that ran it."""
    return str(masked(store.model.model)) if store and store.model.model else "a model that was not named"


def _head(saes: list[SharedSAE], store: StoreSummary | None, bundle: Bundle) -> str:
    forms = {part for path in bundle.files for part in PurePosixPath(path).parts if part in FORMS}
    tags: list[Json] = ["sparse-autoencoder", "interpretability", "strata", *sorted(forms)]
    provenance: Json = None
    if store:
        provenance = [store.corpus.model_dump(mode="json"), store.model.model_dump(mode="json")]
    library = "saelens" if "saelens" in forms else "strata-sae"
    return card_head({"library_name": library, "tags": tags}, provenance, _model(store) if store else "")


def _title(shared: SharedRun | SharedSAE, store: StoreSummary | None) -> str:
    if isinstance(shared, SharedRun):
        return f"{len(shared.saes)} sparse autoencoders of {escaped(_model(store))}"
    return f"`{plain_text(shared.name)}`: a sparse autoencoder of {escaped(_model(store))}"


def _lead(shared: SharedRun | SharedSAE, store: StoreSummary | None) -> str:
    if isinstance(shared, SharedRun):
        made = "read from files of other libraries" if are_imported(shared.saes) else "trained on stored activations"
        return f"The run `{plain_text(shared.folder.path.resolve().name)}`, {made} with Strata."
    sae = shared.trained.record.sae
    imported = shared.trained.record.imported
    made = f"read from files of {escaped(imported.format)}" if imported else "trained on stored activations"
    return (
        f"A `{plain_text(sae.architecture)}` SAE with {sae.d_sae:,} latents, {made} at "
        f"`{plain_text(shared.trained.record.site)}` of {escaped(_model(store))}, with Strata."
    )


def _trained_on(saes: list[SharedSAE], store: StoreSummary | None) -> str:
    first = saes[0].trained
    facts = [
        ("site" if len(_sites(saes)) == 1 else "sites", ", ".join(f"`{plain_text(site)}`" for site in _sites(saes))),
        ("store id", f"`{plain_text(first.record.store_id)}`"),
    ]
    if len(saes) == 1 and (imported := first.record.imported):
        facts.append(("read from", escaped(f"{masked(imported.path)}, in the format of {imported.format}")))
    elif len(saes) == 1:
        rows, steps = first.training.rows, first.training.n_steps
        facts.append(
            ("rows learnt from", f"{rows:,} (tokens, each counted as often as it was read), {steps:,} updates")
        )
    if store:
        model = store.model
        about = [
            f"revision {model.revision}" if model.revision else "",
            f"computed in {model.dtype}" if model.dtype else "",
        ]
        facts.insert(0, ("model", escaped(", ".join([_model(store), *filter(None, about)]))))
        splits = ", ".join(f"{escaped(split)} {n_rows:,}" for split, n_rows in store.split_rows.items())
        facts.append(
            ("store", f"{store.n_rows:,} rows, one per token ({splits}), from {store.n_documents:,} documents")
        )
        facts.append(("encoding", escaped(f"{store.encoding}, compressor {store.compressor}")))
        facts.append(("sequences", escaped(_sequences(store))))
        facts.append(("text", escaped(_text(store))))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts if value)])


def _sites(saes: list[SharedSAE]) -> list[str]:
    return sorted({sae.trained.record.site for sae in saes})


def _sequences(store: StoreSummary) -> str:
    cut = store.config.corpus
    length = f"at most {cut.context_length} tokens" if cut.context_length else ""
    return ", ".join(filter(None, [cut.mode, length]))


def _text(store: StoreSummary) -> str:
    """Sources by name. The texts keep the licences that they have."""
    names = [str(masked(source.path or source.kind)) for source in store.corpus.sources if source.path or source.kind]
    return ", ".join(names)


def _settings(shared: SharedRun | SharedSAE) -> str:
    """What makes an SAE what it is; of a run what was asked for, as its config.yaml has it. No path of anybody's."""
    if isinstance(shared, SharedSAE):
        keys = {"seed", "sae", "objective", "training", "resampling", "parent", "imported"}
        return _code(shared.trained.record.model_dump(mode="json", include=keys))
    if shared.folder.config.name not in shared.names:
        return "Of each SAE in its `config.json`."
    config = parse(read_yaml(shared.folder.config)[0], shared.folder.config.name)[0]
    return f"As `config.yaml` asks for them; the `config.json` of each SAE has its own.\n\n{_code(config)}"


def _code(value: JsonValue) -> str:
    return f"```json\n{fenced_json(masked(value))}\n```"


def _scores(shared: SharedRun | SharedSAE) -> list[str]:
    if isinstance(shared, SharedRun):
        return overview_table(shared.saes)
    if shared.metrics is None:
        return ["Not scored yet."]
    scores = scores_of(shared)
    return [*scores_table(scores, shared.metrics), *losses_table(shared)]
