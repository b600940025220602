"""Repositories of the hub: datasets for stores, models for SAEs. The token is where the hub's own tools keep it."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from functools import cached_property
from pathlib import Path
from types import ModuleType
from urllib.parse import quote, unquote

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files import environment
from strata_sae.stores.remote.http import HttpSource
from strata_sae.stores.remote.transports import Advance, Entry, RetryPolicy, require

_FOREIGN = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError)
"""What the hub's package raises at answers that are not what it takes for granted."""
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_CARD = "README.md"


class HubRepository(HttpSource):
    """A folder of a dataset repository, `hf://datasets/<user>/<repo>[@revision][/<folder>]`.

    What is read is one commit: the revision is looked up once.
    """

    own_files = frozenset([_CARD, ".gitattributes", ".gitignore"])
    _kind, _before = "dataset", "datasets/"
    _spelling = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?")

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        found = self._spelling.fullmatch(url)
        if found is None:
            raise StoreError(f"{url}: write hf://{self._before}<user>/<repository>[@revision][/<folder>]")
        super().__init__(url, policy)
        self._hub = require("huggingface_hub", url)
        self._errors_known = require("huggingface_hub.errors", url)
        self._httpx_error = getattr(self._errors_known, "HTTPError", OSError)  # what connections break with
        constants = require("huggingface_hub.constants", url)
        self._repo = found[1]
        self._revision = unquote(found[2]) if found[2] else "main"
        self._folder = f"{found[3]}/" if found[3] else ""
        self._endpoint = (environment.text("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._api = self._hub.HfApi(endpoint=self._endpoint)
        self._about = {"repo_id": self._repo, "repo_type": self._kind}
        self._last_commit: str | None = None
        if constants.HF_HUB_OFFLINE:
            raise StoreError(f"{url}: HF_HUB_OFFLINE is set; unset it, or use a pulled copy")

    @cached_property
    def _commit(self) -> str:
        with self._errors():
            commit = self._api.repo_info(**self._about, revision=self._revision).sha
            if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
                raise ValueError(f"it calls its commit {str(commit)[:50]!a}")
            return commit

    def address(self, path: str) -> str:
        """See `HttpSource.address`."""
        name = quote(os.fsencode(self._folder + path))
        return f"{self._endpoint}/{self._before}{self._repo}/resolve/{self._commit}/{name}"

    def identity(self, headers: Message) -> None:
        """See `HttpSource.identity`: an address names a commit."""
        return None

    def secrets(self) -> dict[str, str]:
        """See `HttpSource.secrets`."""
        token = self._hub.get_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def entries(self) -> dict[str, Entry]:
        """See `Target.entries`; makes the repository, private, if there is none."""
        with self._errors():
            self._api.create_repo(**self._about, exist_ok=True, private=True)
            if self._revision != "main":
                # From the first commit, which holds no store and no SAE: main may hold another one.
                first = self._api.list_repo_commits(**self._about)[-1].commit_id
                self._api.create_branch(**self._about, branch=self._revision, revision=first, exist_ok=True)
            self.__dict__.pop("_commit", None)  # as it is now
            self._last_commit = self._commit
            return {
                item.path.removeprefix(self._folder): Entry(item.size, item.lfs.sha256 if item.lfs else None)
                for item in self._api.list_repo_tree(**self._about, recursive=True, revision=self._commit)
                if hasattr(item, "size") and item.path.startswith(self._folder)
            }

    def send(self, files: list[tuple[str, Path]], advance: Advance) -> None:
        """See `Target.send`; one commit, so at most 99 files."""
        self._upload({path: str(local) for path, local in files}, f"Add {len(files)} files", None)
        advance(sum(local.stat().st_size for _, local in files))

    def send_new(self, path: str, data: bytes) -> bool:
        """See `Target.send_new`: fails if anybody else has committed since we looked."""
        if path in self.entries():
            return False
        self._upload({path: data}, f"Add {path}", self._last_commit)
        return True

    def show_card(self, card: str) -> None:
        """Write the repository's card, unless it has one."""
        with self._errors():
            if self._api.file_exists(**self._about, filename=_CARD, revision=self._revision):
                return
        folder, self._folder = self._folder, ""
        try:
            self._upload({_CARD: card.encode()}, "Add a card", None)
        finally:
            self._folder = folder

    def close(self) -> None:
        """Nothing is held."""

    def _upload(self, files: Mapping[str, str | bytes], message: str, parent: str | None) -> None:
        operations = [self._hub.CommitOperationAdd(self._folder + path, data) for path, data in files.items()]
        with self._errors(), _no_bars(require("huggingface_hub.utils", self.url)):
            done = self._api.create_commit(
                **self._about,
                operations=operations,
                commit_message=message,
                revision=self._revision,
                parent_commit=parent,
            )
        self._last_commit = done.oid
        self.__dict__["_commit"] = done.oid

    @contextmanager
    def _errors(self) -> Iterator[None]:
        errors = self._errors_known
        try:
            yield
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError):
            raise StoreError(
                f"{self.url}: there is no such repository or revision, or this account may not see it; "
                f"`hf auth login`, or set HF_TOKEN"
            ) from None
        except (errors.HfHubHTTPError, self._httpx_error, *_FOREIGN) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            code = getattr(getattr(error, "response", None), "status_code", None)
            hint = "; somebody else changed the repository, push again" if code in (409, 412) else ""
            hint = "; `hf auth login`, or set HF_TOKEN" if code in (401, 403) else hint
            raise StoreError(f"{self.url}: the hub refuses ({lines[0][:300]}){hint}") from None


class ModelRepository(HubRepository):
    """A folder of a model repository, `hf://<user>/<repo>[@revision][/<folder>]`."""

    _kind, _before = "model", ""
    _spelling = re.compile(r"hf://(?!(?:datasets|models|spaces)/)([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?")


@contextmanager
def _no_bars(utils: ModuleType) -> Iterator[None]:
    """The caller shows the progress."""
    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
