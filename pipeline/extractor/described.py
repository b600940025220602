"""A plan in words: a line, or a few, from each of the functions in `LINES`."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.training import window_rows
from strata_sae.pipeline.extractor.arrange import Arrangement
from strata_sae.pipeline.extractor.limits import filling_bytes, n_data_files
from strata_sae.pipeline.extractor.noted import lines as noted_lines
from strata_sae.pipeline.language_model import given_back_line
from strata_sae.stores.files.canonical import as_int, as_object
from strata_sae.stores.format.plan import Plan, activation_bytes, token_map_bytes
from strata_sae.stores.serving.mixing import documents_per_window, predicted_variance_ratio


class Planned(NamedTuple):
    """What there is to describe."""

    config: RunConfig
    plan: Plan
    arrangement: Arrangement


def describe_draft(planned: Planned) -> str:
    """What the store will hold and cost, and how well the training window will mix documents."""
    return "\n".join(f"{title:<11}{line}" for title, lines in LINES.items() for line in lines(planned))


def _model(planned: Planned) -> Iterator[str]:
    yield f"{as_object(planned.plan.provenance['model'])['model']} ({planned.config.model.dtype})"


def _tokens(planned: Planned) -> Iterator[str]:
    plan, train_rows = planned.plan, planned.arrangement.splits["train"][1]
    yield (
        f"{plan.n_rows:,} of {plan.n_documents:,} documents; {train_rows:,} to train on, "
        f"{plan.n_rows - train_rows:,} held out; {planned.arrangement.spool.skipped_documents} short documents skipped"
    )


def _copies(planned: Planned) -> Iterator[str]:
    yield (
        f"{planned.arrangement.copies:,} of {planned.plan.n_documents:,} documents have the tokens of an earlier one; "
        f"all documents of the same tokens are on one side of the split"
    )


def _sites(planned: Planned) -> Iterator[str]:
    plan = planned.plan
    for site, width in plan.sites.items():
        yield f"{site}: {width} wide, {plan.bytes_per_row(site):,} bytes a token"


def _store(planned: Planned) -> Iterator[str]:
    plan = planned.plan
    exact = "bytes" if plan.compressor == "none" else "bytes before compression"
    yield (
        f"{activation_bytes(plan):,} {exact}, and a token map of at most {token_map_bytes(plan):,}; "
        f"{n_data_files(plan):,} data files"
    )


def _sequences(planned: Planned) -> Iterator[str]:
    corpus = planned.config.corpus
    if corpus.mode == "sequential":
        yield f"documents alone, the first {corpus.context_length} tokens of each"
    else:
        isolated = ", none of which sees another" if corpus.isolate_documents else " as one text"
        yield f"{corpus.context_length} tokens of joined documents{isolated}"


def _units(planned: Planned) -> Iterator[str]:
    plan = planned.plan
    yield f"{plan.n_units} of {plan.rows_per_unit:,} rows, chunks of {plan.rows_per_chunk:,} rows"


def _memory(planned: Planned) -> Iterator[str]:
    yield f"{filling_bytes(planned.plan):,} bytes to fill a unit, beside the model"


def _corpus(planned: Planned) -> Iterator[str]:
    corpus = as_object(planned.plan.provenance["corpus"])
    yield from noted_lines(corpus, as_object(planned.plan.config["corpus"]))
    if line := given_back_line({kind: as_int(n) for kind, n in as_object(corpus["text_given_back"]).items()}):
        yield line


def _mixing(planned: Planned) -> Iterator[str]:
    """A line for each window that training will serve: how large it is depends on the sites and on the batch size."""
    plan, training = planned.plan, planned.config.training
    train_rows = planned.arrangement.splits["train"][1]
    starts = planned.arrangement.starts[planned.arrangement.starts <= train_rows]
    served: dict[tuple[int, int], list[str]] = {}
    for name, sites, batch_size in _batches(planned.config):
        rows = window_rows(training, sum(plan.bytes_per_row(site) for site in sites), batch_size)
        served.setdefault((rows, batch_size), []).append(name)
    for (rows, batch_size), names in served.items():
        blocks = max(1, rows // plan.rows_per_chunk)
        documents = documents_per_window(starts, plan.rows_per_chunk, blocks)
        ratio = predicted_variance_ratio(starts, plan.rows_per_chunk, blocks, batch_size)
        where = f"{', '.join(dict.fromkeys(names))}, batches of {batch_size:,}: " if len(served) > 1 else ""
        capped = f" ({training.window_rows:,} asked for, capped by training.window_bytes)"
        yield (
            f"{where}a window of {min(blocks * plan.rows_per_chunk, train_rows):,} rows"
            f"{capped if rows < min(training.window_rows, train_rows) else ''} spans {documents:,.0f} documents; "
            f"variance of a batch mean {ratio:.2f} x a perfect shuffle's"
        )


def _batches(config: RunConfig) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(site or route, the sites that are read together, rows of a batch) of every SAE that the config trains."""
    for variant in config.variants.values():
        batch_size = variant.resolved(config.training).batch_size
        if variant.route is not None:
            yield variant.route.name, variant.route.sites, batch_size
        else:
            for site in config.training.sites or config.store.sites:
                yield site, (site,), batch_size


LINES: dict[str, Callable[[Planned], Iterator[str]]] = {
    "model": _model,
    "tokens": _tokens,
    "copies": _copies,
    "corpus": _corpus,
    "site": _sites,
    "store": _store,
    "sequences": _sequences,
    "units": _units,
    "memory": _memory,
    "mixing": _mixing,
}
"""Title -> what says it. A line more is a function more."""
