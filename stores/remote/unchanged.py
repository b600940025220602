"""One object a name: what a server says of a file when it is first read in parts holds for all its other parts."""

from strata_sae.stores.errors import StoreError


class Unchanged:
    """What names the object behind each path, by what was said of it first; for several threads."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def check(self, path: str, identity: str | None, where: str) -> None:
        """Hold `identity` (ETag, time and size) against the first one. None: the server says nothing of it.

        Raises: StoreError if the object was replaced meanwhile.
        """
        if identity is None:
            return
        first = self._first.setdefault(path, identity)  # atomic: the first thread decides
        if first != identity:
            raise StoreError(
                f"{where}/{path}: was replaced while it is read ({first} before, {identity} now); open the store "
                f"again, or pull it: every file of a pulled store is checked whole"
            )
