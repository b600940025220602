"""One plain paragraph: what was done, and what came out."""

from strata_sae.pipeline.report.facts import count, uneven_sites
from strata_sae.pipeline.report.results import show
from strata_sae.pipeline.report.run_data import Run, Trained


def statement(run: Run) -> str:
    """What happened in this run, in sentences made from its records."""
    return " ".join(
        sentence for sentence in (_extracted(run), _trained(run), _lost(run), _scored(run), _uneven(run)) if sentence
    )


def _extracted(run: Run) -> str:
    if run.store is None:
        return "The record of the activation store is not in this run folder."
    model, sites = run.store.model.model or "of an unknown name", _number(len(run.store.sites), "site")
    tokens = count(run.store.n_rows)
    return f"The language model {model} read {tokens} tokens once; its activations at {sites} were stored."


def _trained(run: Run) -> str:
    if any(
        sae.config and sae.config.reads for sae in run.trained
    ):  # transcoders or crosscoders: no grid of variants and sites
        n, noun, where = len(run.trained), "sparse coder", ""
    else:
        n, noun = len(run.variants), "sparse autoencoder"
        where = " at one site" if len(run.sites) == 1 else f" at each of {_number(len(run.sites), 'site')}"
    each = _number(n, noun) + (" was" if n == 1 else " were")
    done = sum(sae.finished for sae in run.trained)
    total = len(run.trained)
    whole = "it" if total == 1 else f"all {total}"
    ending = f"{whole} finished" if done == total else f"{done} of {total} finished"
    return f"{each[0].upper() + each[1:]} then trained{where} from the store alone, without the model; {ending}."


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
    measured = f"They were scored on {_number(n_documents, 'document')} that training never saw."
    best = [line for site in run.sites for line in _best_of_equals([sae for sae in scored if sae.site == site])]
    if best:
        return f"{measured} R² can be compared between equal L0 only: {'; '.join(best)}."
    one = len(scored) == 1
    return measured if one else f"{measured} No two at one site have equal L0, so R² alone makes none of them the best."


def _best_of_equals(saes: list[Trained]) -> list[str]:
    """At one site: of the SAEs whose L0 is the same as it is shown, which explains the most variance."""
    by_l0: dict[str, list[Trained]] = {}
    for sae in saes:
        by_l0.setdefault(show(sae.value("l0"), "latents per row"), []).append(sae)
    lines = []
    for l0, equals in by_l0.items():
        if len(equals) > 1:
            best = max(equals, key=lambda sae: sae.value("r2_pooled") or 0.0)
            r2 = show(best.value("r2_pooled"), "fraction of variance")
            lines.append(f"of {len(equals)} with {l0} active latents per row at {best.site}, {best.variant} (R² {r2})")
    return lines


def _uneven(run: Run) -> str:
    sites = list(uneven_sites(run))
    return f"Read R² at {_list(sites)} with care: a few very long rows decide it." if sites else ""


def _number(n: int, noun: str) -> str:
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return f"{words[n] if n < len(words) else count(n)} {noun}{'' if n == 1 else 's'}"


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
