"""Reading a store's files where they lie, by ranges."""

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.remote.fetching import Fetcher


class RemotePlace:
    """A `Place` somewhere else. What is read is read anew each time: keep what is needed again."""

    def __init__(self, fetcher: Fetcher, sizes: dict[str, int]) -> None:
        self.name = fetcher.url
        self._fetcher, self._sizes = fetcher, sizes

    def open(self, path: str) -> "RemoteFile":
        """A file of the store; nothing is sent before it is read. Raises: StoreError if the store has no such file."""
        if path not in self._sizes:
            raise StoreError(f"{self.name}: the store has no file {path}")
        return RemoteFile(self._fetcher, path, self._sizes[path])


class RemoteFile:
    """The bytes of a file on a server."""

    def __init__(self, fetcher: Fetcher, path: str, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._fetcher, self._path = fetcher, path

    def read(self, offset: int, n_bytes: int) -> np.ndarray:
        """Exactly these bytes, uint8, read-only. Raises: StoreError if they leave the file or cannot be had."""
        if not 0 <= offset <= offset + n_bytes <= self.n_bytes:
            raise StoreError(
                f"{self._fetcher.url}/{self._path}: bytes {offset}..{offset + n_bytes} leave its {self.n_bytes} bytes"
            )
        if n_bytes == 0:
            return np.empty(0, np.uint8)
        data = np.frombuffer(self._fetcher.get_range(self._path, offset, n_bytes), np.uint8)
        data.flags.writeable = False
        return data

    def will_need(self, offset: int, n_bytes: int) -> None:
        """A request is made when the bytes are read; several threads read ahead."""

    def let_go(self, offset: int, n_bytes: int) -> None:
        """Nothing is held."""
