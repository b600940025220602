"""What was done, with what, and what came of it: a paragraph in words, and (label, value) pairs of text."""

from pydantic import JsonValue

from strata_sae.pipeline.pages.text import UNKNOWN, count, size
from strata_sae.pipeline.report.ranking import ranking
from strata_sae.pipeline.report.run_data import Run
from strata_sae.pipeline.runs.evaluation_records import Model, StoreSummary
from strata_sae.pipeline.runs.migration import JsonObject
from strata_sae.pipeline.runs.records import ImportedPart, SAERecord

Facts = list[tuple[str, str]]

MOST_FILES = 3
"""Files of a published SAE whose hashes stand beside its name; the record at the end of the page has all."""
UNEVEN = 0.3
"""Share of the squared norm in 1 % of the rows from which the page warns."""


def store_facts(run: Run) -> Facts:
    """The activation store: size, form and identity."""
    store = run.store
    if store is None:
        return []
    form = "uncompressed" if store.compressor == "none" else store.compressor
    speed = store.timing and f"{count(store.timing.rows_per_second)} rows per second, all sites"
    facts = [
        ("Model", _model(store.model)),
        ("Text", _text(store)),
        ("Sites", ", ".join(f"{site} ({store.sites[site].d_model} wide)" for site in store_sites(run, store))),
        ("Documents", count(store.n_documents)),
        ("Rows to train on", count(store.split_rows.get("train"))),
        ("Rows held out", count(store.split_rows.get("heldout"))),
        ("Bytes per token", _bytes_per_token(store)),
        ("Encoding", f"{store.encoding}, {form}"),
        ("On disk", f"{size(store.total_bytes)} in {count(store.n_data_files)} files"),
        ("Extraction", speed),
        ("Store id", store.store_id),
        ("Plan id", store.plan_id),
    ]
    return [(label, value) for label, value in facts if value and UNKNOWN not in value]


def run_facts(run: Run) -> Facts:
    """The strip of numbers under the statement."""
    store = run.store
    scored = [sae.metrics.n_rows for sae in run.trained if sae.metrics]
    each = [site.bytes_per_token for site in store.sites.values()] if store else []
    facts = [
        ("rows stored per site", count(store.n_rows if store else None)),
        ("sites", count(len(run.sites))),
        ("variants", count(len(run.variants))),
        ("bytes per token, all sites", count(sum(each) if each else None)),
        ("rows per second, extraction", count(store.timing.rows_per_second if store and store.timing else None)),
        ("held-out rows scored", count(max(scored, default=None))),
    ]
    return [(label, value) for label, value in facts if value != UNKNOWN]


def environment_facts(run: Run) -> Facts:
    """The machine and the versions that trained, and the config's seed."""
    facts: JsonObject = {"seed": run.config.get("seed")}
    if run.environment is not None:
        facts |= run.environment.model_dump(exclude={"packages", "version"}) | run.environment.packages
    return [(key.replace("_", " "), str(value)) for key, value in facts.items() if value is not None]


def variant_facts(run: Run) -> Facts:
    """Each variant's architecture, the settings that tell it from the others, and the terms of its objective."""
    shown = [sae.config for name in run.variants for sae in run.trained if sae.config and sae.variant == name]
    configs = {config.variant: config for config in reversed(shown)}
    every = [config.sae.further() for config in configs.values()]
    return [(name, _variant(configs[name], every)) for name in run.variants if name in configs]


def _variant(config: SAERecord, every: list[JsonObject]) -> str:
    sae, objective = config.sae, config.objective
    terms = sorted(objective, key=lambda term: "reconstruction" not in term)
    parts = [
        sae.architecture,
        f"{count(sae.d_sae)} latents",
        _settings({key: value for key, value in sae.further().items() if _tells(key, value, every)}),
        " + ".join(_term(term, objective[term].further().get("weight")) for term in terms),
        _source(config.imported) if config.imported else "",
    ]
    return " · ".join(part for part in parts if part)


def _source(imported: ImportedPart) -> str:
    """Where it was imported from, and the first files by name and hash."""
    files = [f"{name} {sha256[:12]}" for name, sha256 in sorted(imported.sha256.items())[:MOST_FILES]]
    more = ["…"] if len(imported.sha256) > MOST_FILES else []
    return f"imported from {imported.format}, {imported.path}, sha256 {', '.join([*files, *more])}"


def _tells(key: str, value: JsonValue, every: list[JsonObject]) -> bool:
    """Whether a setting says something of a variant: a number or a schedule, or what is not the same wherever it is."""
    if isinstance(value, bool | str) or (isinstance(value, dict) and "start" not in value):
        return any(settings[key] != value for settings in every if key in settings)
    return True


def _term(name: str, weight: JsonValue) -> str:
    return name if weight in (None, 1, 1.0) else f"{name} ({_settings({'weight': weight})})"


def _settings(settings: JsonObject) -> str:
    return ", ".join(f"{key} {_setting(value)}" for key, value in settings.items() if value is not None)


def _setting(value: JsonValue) -> str:
    if isinstance(value, dict) and {"start", "end"} <= value.keys():
        return f"{_setting(value['start'])} → {_setting(value['end'])}"
    if isinstance(value, dict):
        return f"({_settings(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def store_sites(run: Run, store: StoreSummary) -> list[str]:
    """The store's sites, those of the SAEs first and in their order."""
    return [site for site in run.sites if site in store.sites] + [site for site in store.sites if site not in run.sites]


def uneven_sites(run: Run) -> dict[str, float]:
    """Sites where 1 % of the scored rows carry at least UNEVEN of the squared norm, with that share."""
    shares = {
        site: max((sae.metrics.top_percent_square_share or 0.0 for sae in run.at(site) if sae.metrics), default=0.0)
        for site in run.sites
    }
    return {site: share for site, share in shares.items() if share >= UNEVEN}


def _model(model: Model) -> str:
    return " · ".join(part for part in (model.model, model.revision, model.architecture, model.dtype) if part)


def _text(store: StoreSummary) -> str:
    sources = [f"{source.path or source.kind} ({count(source.documents)} documents)" for source in store.corpus.sources]
    cut = store.config.corpus
    how = f"{cut.mode}, {count(cut.context_length)} tokens at a time" if cut.mode else ""
    return "; ".join(part for part in (", ".join(sources), how) if part)


def _bytes_per_token(store: StoreSummary) -> str:
    each = sorted({round(site.bytes_per_token) for site in store.sites.values()})
    return f"{' to '.join(count(value) for value in dict.fromkeys([each[0], each[-1]]))} per site" if each else ""


def statement(run: Run) -> str:
    """What happened in this run, in sentences made from its records."""
    told = (_extracted(run), _trained(run), _lost(run), _imported(run), _scored(run), _uneven(run))
    return " ".join(sentence for sentence in told if sentence)


def _extracted(run: Run) -> str:
    if run.store is None:
        return "The record of the activation store is not in this run folder."
    model, sites = run.store.model.model or "of an unknown name", _number(len(run.store.sites), "site")
    tokens = count(run.store.n_rows)
    return f"The language model {model} was run once over {tokens} tokens; its activations at {sites} were stored."


def _trained(run: Run) -> str:
    trained = [sae for sae in run.trained if not sae.imported]
    if not trained:
        return ""
    sites, variants = ({getattr(sae, key) for sae in trained} for key in ("site", "variant"))
    # Transcoders and crosscoders are no grid of variants and sites.
    if any(sae.config and sae.config.reads for sae in trained):
        n, noun, where = len(trained), "sparse coder", ""
    else:
        n, noun = len(variants), "sparse autoencoder"
        where = " at one site" if len(sites) == 1 else f" at each of {_number(len(sites), 'site')}"
    each = _number(n, noun) + (" was" if n == 1 else " were")
    done = sum(sae.finished for sae in trained)
    total = len(trained)
    whole = "it" if total == 1 else f"all {total}"
    ending = f"{whole} finished" if done == total else f"{done} of {total} finished"
    return f"{each[0].upper() + each[1:]} then trained{where} from the store alone, without the model; {ending}."


def _imported(run: Run) -> str:
    imported = [sae for sae in run.trained if sae.imported]
    if not imported:
        return ""
    each = _number(len(imported), "published sparse coder")
    were = "was" if len(imported) == 1 else "were"
    formats = _list(sorted({sae.imported.format for sae in imported if sae.imported}))
    return f"{each[0].upper() + each[1:]} {were} imported from files of {formats}, and not trained here."


def _lost(run: Run) -> str:
    lost = []
    for name in run.variants:
        of_name = [sae.training for sae in run.trained if sae.diverged and sae.variant == name]
        steps = [training.diverged_at_step for training in of_name if training]
        if steps:
            where = "" if len(steps) == len(run.sites) else f" at {_number(len(steps), 'site')}"
            lost.append(f"{name}{where} (step {' and '.join(count(step) for step in steps)})")
    return f"Training diverged and was stopped for {_list(lost)}." if lost else ""


def _scored(run: Run) -> str:
    scored = [sae for sae in run.trained if sae.value("r2_pooled") is not None]
    if not scored:
        return "Nothing has been scored yet."
    n_documents = max(sae.metrics.n_documents for sae in scored if sae.metrics)
    were = "was" if n_documents == 1 else "were"
    unseen = f"that {were} not used in training"
    if any(sae.imported for sae in run.trained):
        unseen = f"that {were} not used in training here"
    measured = f"They were scored on {_number(n_documents, 'document')} {unseen}."
    told = ranking(run)
    if told or len(scored) == 1:
        return " ".join([measured, *told])
    return f"{measured} Which differences are more than noise was not measured, so none is ranked."


def _uneven(run: Run) -> str:
    sites = list(uneven_sites(run))
    return f"R² at {_list(sites)} depends mostly on a few rows of very large norm." if sites else ""


def _number(n: int, noun: str) -> str:
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return f"{words[n] if n < len(words) else count(n)} {noun}{'' if n == 1 else 's'}"


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
