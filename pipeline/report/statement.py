"""One plain paragraph: what was done, and what came out."""

from pipeline.report.facts import count, model_name, uneven_sites
from pipeline.report.run_data import Run


def statement(run: Run) -> str:
    """What happened in this run, in sentences made from its records."""
    return " ".join(
        sentence for sentence in (_extracted(run), _trained(run), _lost(run), _scored(run), _uneven(run)) if sentence
    )


def _extracted(run: Run) -> str:
    if "n_rows" not in run.store:
        return "The record of the activation store is not in this run folder."
    sites = _number(len(run.store.get("sites", {})), "site")
    tokens = count(run.store["n_rows"])
    return f"The language model {model_name(run)} read {tokens} tokens once; its activations at {sites} were stored."


def _trained(run: Run) -> str:
    if any("reads" in sae.config for sae in run.trained):  # transcoders or crosscoders: no grid of variants and sites
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
        steps = [sae.training.get("diverged_at_step") for sae in run.trained if sae.diverged and sae.variant == name]
        if steps:
            where = "" if len(steps) == len(run.sites) else f" at {_number(len(steps), 'site')}"
            lost.append(f"{name}{where} (step {' and '.join(count(step) for step in steps)})")
    return f"Training diverged and was stopped for {_list(lost)}." if lost else ""


def _scored(run: Run) -> str:
    best = []
    for site in run.sites:
        scored = [(value, sae) for sae in run.at(site) if (value := sae.value("r2_pooled")) is not None]
        if scored:
            r2, sae = max(scored, key=lambda pair: pair[0])
            l0 = sae.value("l0")
            cost = f" with {l0:.1f} active latents per row" if l0 is not None else ""
            best.append(f"{sae.variant} at {site} (R² {r2:.3f}{cost})")
    if not best:
        return "Nothing has been scored yet."
    n_documents = max((sae.metrics.get("n_documents", 0) for sae in run.trained), default=0)
    unseen = _number(n_documents, "document") if n_documents else "documents"
    return f"On {unseen} that training never saw, the most variance was explained by {_list(best)}."


def _uneven(run: Run) -> str:
    sites = list(uneven_sites(run))
    return f"Read R² at {_list(sites)} with care: a few very long rows decide it." if sites else ""


def _number(n: int, noun: str) -> str:
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return f"{words[n] if n < len(words) else count(n)} {noun}{'' if n == 1 else 's'}"


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
