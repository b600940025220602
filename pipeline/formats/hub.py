"""A folder of a model repository on the Hugging Face hub, fetched into the hub's own cache: only the files of an SAE.

Tokens come from where the hub's tools keep them.
"""

import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote

from strata_sae.pipeline.errors import CheckpointError, ConfigError, first_line, shown
from strata_sae.stores.files import environment

SCHEME = "hf://"
_URL = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/(.+))?")
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+))?")
_PART = r"(?!\.{1,2}(?:/|$))[\w.,+=@-]+"
_FOLDER = re.compile(rf"{_PART}(?:/{_PART})*")
_FOREIGN = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError)
"""What the hub's package raises at answers that are not what it takes for granted."""


class Address(NamedTuple):
    """A folder of a repository at a revision."""

    repository: str
    revision: str | None
    folder: str

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{revision}" + (f"/{self.folder}" if self.folder else "")


def address_of(text: str) -> Address | None:
    """What `hf://owner/repo[@revision][/folder]` names; or `owner/repo[/folder]`, unless a folder `owner` is here.

    Returns: None for what is no address. Raises: ConfigError for one of hf:// that names no folder of a model.
    """
    if text.startswith(SCHEME):
        found = _URL.fullmatch(text)
        folder = (found[3] or "").rstrip("/") if found else ""
        if found is None or text.startswith(f"{SCHEME}datasets/") or (folder and not _FOLDER.fullmatch(folder)):
            raise ConfigError(
                f"{shown(text)}: is no folder of a model repository; write hf://<owner>/<repository>[@revision][/<folder>]"
            )
        return Address(found[1], unquote(found[2]) if found[2] else None, folder)
    found = _ID.fullmatch(text)
    if found is None or "@" in text or Path(text.partition("/")[0]).exists():
        return None
    if found[2] and not _FOLDER.fullmatch(found[2]):
        return None
    return Address(found[1], None, found[2] or "")


def fetched(address: Address, names: Iterable[str]) -> Path:
    """The folder in the hub's cache, with those of the files `names` (paths below the folder) that there are.

    Raises: ConfigError if the hub's package is missing, or nothing is there; CheckpointError if the hub refuses.
    """
    hub, errors = _package("huggingface_hub", address), _package("huggingface_hub.errors", address)
    below = f"{address.folder}/" if address.folder else ""
    try:
        found = hub.snapshot_download(
            address.repository,
            revision=address.revision,
            allow_patterns=[below + name for name in names],
            endpoint=environment.text("HF_ENDPOINT"),
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError):
        raise ConfigError(
            f"{address}: there is no such repository or revision, or this account may not see it; "
            "`hf auth login`, or set HF_TOKEN"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        offline = _package("huggingface_hub.constants", address).HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise ConfigError(
            f"{address}: is not in the hub's cache, and {why}; fetch it where there is a network"
        ) from None
    except (errors.HfHubHTTPError, getattr(errors, "HTTPError", OSError), *_FOREIGN) as error:
        raise CheckpointError(f"{address}: the hub refuses ({shown(first_line(error))}); try again later") from None
    folder = Path(found) / address.folder
    if not folder.is_dir():
        raise ConfigError(f"{address}: there is no such folder, or none of the files in it that SAEs are made of")
    return folder


def _package(name: str, address: Address) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(
            f"{address}: needs huggingface_hub, which is not installed; pip install 'strata-sae[remote]'"
        ) from None
