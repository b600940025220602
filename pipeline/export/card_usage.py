"""The last parts of a card: how to load what was pushed in three libraries, and what it does not tell."""

import re

from strata_sae.pipeline.export.shared import SharedRun, SharedSAE
from strata_sae.stores import Bundle, plain_text

HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(@[^/]+)?(?:/(.+))?")


def usage(shared: SharedRun | SharedSAE, bundle: Bundle, url: str) -> str:
    """Commands and code, only for the libraries whose files are there."""
    sae = shared.saes[0] if isinstance(shared, SharedRun) else shared
    name, before = plain_text(sae.name), f"variants/{sae.name}/" if isinstance(shared, SharedRun) else ""
    place = plain_text(url)
    parts = [
        "## How to load it",
        "Every file is checked by its hash, and every record by its reader, before anything appears:",
        _block("", f"pip install 'strata-sae[remote]'\nstrata pull {place} OUT --expect {bundle.id}"),
        "In Python, of rows as the model computes them (no scale, nothing subtracted):",
        _block("python", f'import strata_sae as strata\n\nsae = strata.load("OUT/{name}")\ncodes = sae.encode(rows)'),
    ]
    if f"{before}saelens/cfg.json" in bundle.files:
        parts += ["In SAELens:", _block("python", _saelens(url, before, name))]
    if f"{before}dictionary_learning/ae.pt" in bundle.files:
        code = (
            "from dictionary_learning.utils import load_dictionary\n\n"
            f'sae, config = load_dictionary("OUT/variants/{name}/dictionary_learning", "cpu")'
        )
        parts += ["In dictionary_learning:", _block("python", code)]
    if isinstance(shared, SharedRun):
        others = (
            f"The other {len(shared.saes) - 1} lie beside it, under the names of the table. " if shared.saes[1:] else ""
        )
        parts.append(f"{others}`strata report OUT` writes the run's page anew from its records.")
    return "\n\n".join(parts)


def _saelens(url: str, before: str, name: str) -> str:
    """From the hub where that is where it lies; SAELens reads the main revision only."""
    found = HUB.fullmatch(url)
    if found and found[2] is None:
        folder = f"{found[3]}/" if found[3] else ""
        inside = plain_text(f"{folder}{before}saelens")
        return f'from sae_lens import SAE\n\nsae = SAE.from_pretrained("{found[1]}", "{inside}")'
    return f'from sae_lens import SAE\n\nsae = SAE.load_from_disk("OUT/variants/{name}/saelens")'


def _block(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"


def are_imported(saes: list[SharedSAE]) -> bool:
    """Whether another library trained them, on a text that is not known here."""
    return all(sae.trained.record.imported for sae in saes)


def limits(shared: SharedRun | SharedSAE) -> str:
    """What the numbers above do not say."""
    saes = shared.saes if isinstance(shared, SharedRun) else [shared]
    text = "the store that is named above" if are_imported(saes) else "the same text as training's"
    lines = [
        f"- The scores are of held-out documents of {text}. Of other text, another model, another "
        "site or another precision they say nothing.",
        "- Intervals are over documents of one store and one training; another seed gives other latents.",
        "- No latent here has a meaning by itself: what a latent is active on is an observation, and no cause of what "
        "the model does.",
    ]
    imported = [sae.name for sae in saes if sae.trained.record.imported]
    if 0 < len(imported) < len(saes):
        names = ", ".join(f"`{plain_text(name)}`" for name in imported[:20])
        lines.append(f"- Another library trained {names}, on a text that is not known here.")
    if not all("model_metrics.json" in sae.names for sae in saes):
        lines.append("- What the language model loses with it spliced in was not measured for every SAE here.")
    dead = [
        f"`{plain_text(sae.name)}` {one.value:,.0f}"
        for sae in saes
        if sae.metrics and (one := sae.metrics.metrics.get("dead_latents")) and one.value
    ]
    if dead:
        lines.append(f"- Latents that were active on no held-out row: {', '.join(dead[:20])}.")
    lines.append(
        "- Hashes find damage, not forgery: compare the id with one from a source that you trust (`--expect`)."
    )
    return "\n".join(["## Limits", "", *lines])
