"""Where things lie in a run folder, and the lock that gives it one writer at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.stores.files.locks import hold


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

    @property
    def config(self) -> Path:
        """The resolved config of this SAE; written first."""
        return self.path / "config.json"

    @property
    def weights(self) -> Path:
        """The trained SAE in raw units."""
        return self.path / "weights.safetensors"

    @property
    def curves(self) -> Path:
        """One line per logged step."""
        return self.path / "curves.jsonl"

    @property
    def training(self) -> Path:
        """How training ended; written last, so its presence means done."""
        return self.path / "training.json"

    @property
    def metrics(self) -> Path:
        """Scores."""
        return self.path / "metrics.json"

    @property
    def features(self) -> Path:
        """Per-latent measurements."""
        return self.path / "features.safetensors"

    @property
    def examples(self) -> Path:
        """Top-activating tokens."""
        return self.path / "examples.json"

    @property
    def checkpoints(self) -> Path:
        """Resumable states; exists only while training is unfinished."""
        return self.path / "checkpoints"


@dataclass(frozen=True)
class RunFolder:
    """`runs/<name>/`."""

    path: Path

    @property
    def config(self) -> Path:
        """The run's resolved YAML."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions and processor of the last training."""
        return self.path / "environment.json"

    @property
    def store(self) -> Path:
        """What the store was that scores were measured on; written by evaluate."""
        return self.path / "store.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def results(self) -> Path:
        """The table."""
        return self.path / "results.csv"

    def loader(self, site: str) -> Path:
        """How reading batches of a site went, by the clock; no part of any identity."""
        return self.path / "loader" / f"{site}.jsonl"

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
    with ExitStack() as held:
        try:
            held.enter_context(hold(folder, wait=False, needed=False))
        except BlockingIOError:
            raise CheckpointError(
                f"{folder}: another process is writing this run; wait for it, or give this run another name"
            ) from None
        yield
