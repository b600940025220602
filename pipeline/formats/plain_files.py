"""Files of a foreign folder: plain ones that lie in it, no larger than what may be read."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import torch

from strata_sae.pipeline.available import total_bytes
from strata_sae.pipeline.errors import CheckpointError, one_line, shown
from strata_sae.pipeline.input_files import file_sha256


def plain_file(path: Path, within: Path | None = None) -> Path:
    """The file behind a path, every link followed.

    within: the folder that was given; None: the file's own.
    Raises: CheckpointError if it is missing, no plain file, or lies outside that folder. A folder in the hub's cache
        consists of links to the blobs of the same repository, so those are let through.
    """
    try:
        found, root = path.resolve(strict=True), (within or path.parent).resolve(strict=True)
        is_plain = stat.S_ISREG(os.stat(found).st_mode)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file; fetch the whole folder again") from None
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links; a name that no file can have
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)}); fetch the folder again") from None
    if not is_plain:
        raise CheckpointError(f"{path}: is no plain file; only plain files are read, so put a copy in its place")
    if not found.is_relative_to(root) and found.parent != _blobs_of(root):
        raise CheckpointError(
            f"{path}: is a link out of {root}; only files in the folder itself are read, so put a copy in its place"
        )
    return found


def read_bytes(path: Path, within: Path | None, limit_bytes: int) -> bytes:
    """A small file's bytes. Raises: CheckpointError as `plain_file`, or if there are more bytes than the limit."""
    found = plain_file(path, within)
    try:
        descriptor = os.open(found, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); fetch the folder again") from None
    if len(data) > limit_bytes:
        raise CheckpointError(
            f"{path}: has more than the {limit_bytes:,} bytes that such a file may have; check what it is"
        )
    return data


def check_memory(needed_bytes: int, where: str) -> None:
    """Raises: CheckpointError if tensors need more memory than this machine has at all."""
    if needed_bytes > (there := total_bytes(torch.device("cpu"))):
        raise CheckpointError(
            f"{where}: its tensors take {needed_bytes:,} bytes, and this machine has {there:,}; "
            "check that the file is what it should be, or read it on a larger machine"
        )


def file_sha256s(paths: Iterable[Path], within: Path | None = None) -> dict[str, str]:
    """sha256 (hex) of files, by their path in the folder `within`; None: by their name.

    Raises: CheckpointError as `plain_file`.
    """
    found = {}
    for path in paths:
        name = path.name if within is None else path.relative_to(within).as_posix()
        try:
            found[name] = file_sha256(plain_file(path, within))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); fetch the folder again") from None
    return found


def quoted(name: str) -> str:
    """A name from a foreign file as an error may show it: quoted, ASCII, short."""
    return shown(ascii(name))


def _blobs_of(root: Path) -> Path | None:
    """`<repository>/blobs` for `<repository>/snapshots/<commit>` or a folder in it, as the hub's cache has them."""
    for commit in (root, *root.parents):
        if commit.parent.name == "snapshots":
            return commit.parent.parent / "blobs"
    return None
