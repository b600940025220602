"""Run folders: where things lie in them, and how they are written, so that a kill leaves a file whole or absent."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.stores.files.filesystem import FileSystem, remove_tree, write_new
from strata_sae.stores.files.locks import hold

STAGED = ".staged-"
"""Prefix of what is not yet published; left behind by a kill, deletable at any time."""
FILES = FileSystem()


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
    try:
        with hold(folder, wait=False, needed=False):
            yield
    except BlockingIOError:
        raise CheckpointError(
            f"{folder}: another process is writing this run; wait for it, or give this run another name"
        ) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Replace or create a file atomically and durably; its folder is made if missing."""
    make_folder(path.parent)
    staged = staging_path(path)
    try:
        with naming(path):
            write_new(FILES, staged, data)
        FILES.rename(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name into an OSError that has none: a full disk is found by write, which knows no names."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def make_folder(path: Path) -> None:
    """Create a folder and its parents, so that their names survive a power cut; what exists is left alone."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            FILES.make_folder(folder)
            sync(folder.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    with naming(folder):
        FILES.sync_folder(folder)


def staging_path(path: Path) -> Path:
    """A fresh name in the same folder, so that the final rename cannot cross a file system."""
    return path.with_name(f"{STAGED}{path.name}-{uuid.uuid4().hex}")


def publish_folder(staged: Path, target: Path) -> None:
    """Make a staged folder appear under its final name, whole and durable. `target` must not exist."""
    for file in staged.iterdir():
        with naming(file):
            FILES.sync_path(file)
    sync(staged)
    FILES.rename(staged, target)
    sync(target.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder so that a kill never leaves half of it under its name."""
    doomed = staging_path(path)
    FILES.rename(path, doomed)
    sync(path.parent)
    remove_tree(FILES, doomed)


def remove_staged(folder: Path) -> None:
    """Delete what a killed writer left unpublished directly inside a folder."""
    for leftover in folder.glob(f"{STAGED}*"):
        if leftover.is_dir():
            remove_tree(FILES, leftover)
        else:
            leftover.unlink()
