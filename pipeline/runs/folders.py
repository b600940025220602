"""Where things lie in a run folder, and the lock that gives it one writer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.stores.files.locks import hold


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
        """`<variant>@<site>`."""
        return self.path.name

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
    checkpoints = FixedPath("checkpoints")
    """step_*: resumable states, while training is unfinished. kept_*: weights of shares of the run, which stay."""

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
    report = FixedPath("report.html")
    """The page."""
    results = FixedPath("results.csv")
    """The table."""

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


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process; the kernel drops the lock when the process ends, however it ends.

    On a file system that knows no locks, none is taken. Raises: CheckpointError if another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = CheckpointError(f"{folder}: another process is writing this run; wait for it, or give this run another name")
    with hold(folder, wait=False, needed=False, busy=busy):
        yield
