"""Where things lie in a run folder."""

from dataclasses import dataclass
from pathlib import Path

TRIALS = "match"
"""Folder of an SAE in which the trials lie."""


class FixedPath:
    """A name within a run folder or a variant's: read from one, its path."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder | VariantFolder", kind: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class VariantFolder:
    """`variants/<variant>@<site>/`: one trained SAE and everything measured on it.

    In the place of the site: `<a>-to-<b>` for a transcoder, `<a>+<b>` for a crosscoder.
    """

    path: Path

    @property
    def name(self) -> str:
        """`<variant>@<site>`: that of the SAE that is looked for, of the folder of a trial."""
        return self.path.name if self.number is None else self.path.parents[1].name

    @property
    def number(self) -> int | None:
        """Which trial's folder it is; None: it is no trial's."""
        is_one = self.path.parent.name == TRIALS and self.path.name.isdecimal()
        return int(self.path.name) if is_one else None

    @property
    def variant(self) -> str:
        """Name of the variant in the config."""
        return self.name.partition("@")[0]

    @property
    def site(self) -> str:
        """Name of the site in the store."""
        return self.name.partition("@")[2]

    config = FixedPath("config.json")
    """The resolved config of this SAE; written first."""
    weights = FixedPath("weights.safetensors")
    """The trained SAE in raw units."""
    curves = FixedPath("curves.jsonl")
    """One line per logged step."""
    training = FixedPath("training.json")
    """How training ended; written last, so its presence means done."""
    metrics = FixedPath("metrics.json")
    """Scores."""
    features = FixedPath("features.safetensors")
    """Per-latent measurements."""
    examples = FixedPath("examples.json")
    """Top-activating tokens."""
    per_document = FixedPath("per_document.json")
    """Sums over the scored rows of each document."""
    model_metrics = FixedPath("model_metrics.json")
    """Losses of the language model with the reconstruction spliced in."""
    probing = FixedPath("probing.json")
    """Probes of labelled rows."""
    absorption = FixedPath("absorption.json")
    """First-letter absorption."""
    truth = FixedPath("truth.json")
    """What was recovered of a toy's features."""
    codes = FixedPath("codes")
    """The codes of all latents on all rows (stores/codes)."""
    token_labels = FixedPath("token_labels.json")
    """Which tokens tell best when each latent fires: a label that needs no language model."""
    label_arrays = FixedPath("token_labels.safetensors")
    """The labels themselves."""
    token_counts = FixedPath("token_counts.safetensors")
    """On how many rows each latent fires on each token."""
    interpretation = FixedPath("interpretation.json")
    """What language models say that latents mean, scored."""
    interpretations = FixedPath("interpretations.csv")
    """The same as a table."""
    published = FixedPath("published.json")
    """Explanations of latents that others published."""
    ablations = FixedPath("ablations")
    """Effects of ablated latents on those of another SAE and on logits; may be deleted."""
    match = FixedPath("match.json")
    """The trials that led to the wanted L0; the trials themselves lie in match/<n>/."""
    failures = FixedPath("failures.txt")
    """A line for each training that failed in a run of an engine (trainer/failures.py); gone when it is trained."""
    checkpoints = FixedPath("checkpoints")
    """step_*: resumable states, while training is unfinished. kept_*: weights of shares of the run, which stay."""

    def trial(self, number: int) -> "VariantFolder":
        """One training, counted from 1, of the search for the wanted L0."""
        return VariantFolder(self.path / TRIALS / str(number))

    def kept(self, step: int) -> "VariantFolder":
        """Where the weights after `step` updates are kept, with their training.json."""
        return VariantFolder(self.checkpoints / f"kept_{step:08d}")


@dataclass(frozen=True)
class RunFolder:
    """`runs/<name>/`."""

    path: Path

    config = FixedPath("config.yaml")
    """The run's resolved YAML."""
    environment = FixedPath("environment.json")
    """Versions and processor of the last training."""
    store = FixedPath("store.json")
    """What the store was that scores were measured on; written by evaluate."""
    comparisons = FixedPath("comparisons.json")
    """Differences between the SAEs of each site, with their noise."""
    stability = FixedPath("stability.json")
    """How alike the decoders of seeds are, beside random ones."""
    report = FixedPath("report.html")
    """The page."""
    results = FixedPath("results.csv")
    """The table."""
    tables = FixedPath("tables")
    """<name>.csv: the tables of the page's sections."""
    claims = FixedPath("claims")
    """<name>.lock: what a process works on now (runs/claims.py); gone when none does."""
    judged = FixedPath("claims/judged")
    """Which job has judged the run, and what of it: read by the other processes of that job."""
    answers = FixedPath("answers")
    """<process>.jsonl: answers of language models, by the hash of what was asked; what was paid for."""
    analysis = FixedPath("analysis")
    """<question>/<SAE and options>.csv, .html: answers of `strata analyze`; may be deleted."""
    hypotheses = FixedPath("hypotheses")
    """<target>.csv, .html: which latents tell a target of the documents; may be deleted."""
    """<SAE and options>.csv, .html: what tells a target of the documents, by `strata interpret --target`."""
    tracking = FixedPath("tracking")
    """<tracker>.json: what each tracker was sent. <tracker>/: what a tracker keeps on this disk."""

    def loader(self, site: str) -> Path:
        """How reading batches of a site went, by the clock; no part of any identity."""
        return self.path / "loader" / f"{site}.jsonl"

    def documents(self, site: str) -> Path:
        """Mean and deviation of every document at a site; measured anew where the file is missing."""
        return self.path / "documents" / f"{site}.safetensors"

    def variant(self, name: str) -> VariantFolder:
        """Folder of one SAE, by `<variant>@<site>`."""
        return VariantFolder(self.path / "variants" / name)

    def trained(self) -> list[VariantFolder]:
        """Folders of the SAEs whose training is done, by name."""
        return [VariantFolder(path.parent) for path in sorted(self.path.glob("variants/*@*/training.json"))]
