"""A file system that remembers every step, and the states a power cut after any step could leave behind.

The model is the pessimistic one of the crash-consistency literature (ALICE, OSDI 2014): a file's bytes are certain only
once it was synced, a name is certain only once its folder was; anything else may be there, partly there, or not.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strata_sae.stores.files.filesystem import FileSystem


class RecordingFileSystem(FileSystem):
    """Does everything for real, and keeps the list of steps. `durable=False` forgets to sync: the negative control."""

    def __init__(self, *, durable: bool = True) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self._durable = durable
        self._paths: dict[int, Path] = {}

    def acknowledge(self, fact: object) -> None:
        """The program under test has just promised `fact` to somebody."""
        self.steps.append(("acknowledge", fact))

    def make_folder(self, path: Path) -> None:
        if not path.is_dir():
            self.steps.append(("make_folder", path))
        super().make_folder(path)

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._paths[descriptor] = path
        self.steps.append(("create", path))
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        super().write(descriptor, data)
        self.steps.append(("write", self._paths[descriptor], bytes(data)))

    def sync(self, descriptor: int) -> None:
        if self._durable:
            self.steps.append(("sync", self._paths[descriptor]))

    def sync_path(self, path: Path) -> None:
        if self._durable:
            self.steps.append(("sync", path))

    def sync_folder(self, path: Path) -> None:
        if self._durable:
            self.steps.append(("sync_folder", path))

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self.steps.append(("link", source, target))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.steps.append(("rename", source, target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.steps.append(("unlink", path))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self.steps.append(("unlink", path))


@dataclass
class _Node:
    """A file (entries None) or a folder."""

    entries: dict[str, "_Node"] | None = None
    data: bytearray = field(default_factory=bytearray)
    synced_bytes: int = 0


@dataclass
class _Change:
    """A change of names that no sync has made certain yet: name -> node, or None for gone."""

    folder: _Node
    name: str
    node: _Node | None
    also: "tuple[_Node, str] | None" = None
    """For a rename, the old place, which goes in the same instant."""


class Disk:
    """What is certain after a number of steps, and what is still up in the air."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._now = _Node(entries={})
        self._certain: dict[int, dict[str, _Node]] = {id(self._now): {}}
        self._pending: list[_Change] = []
        self._kept = [self._now]
        self.acknowledged: list[object] = []

    def apply(self, step: tuple[Any, ...]) -> None:
        """Play one recorded step."""
        kind, *arguments = step
        if kind == "acknowledge":
            self.acknowledged.append(arguments[0])
        elif kind in ("make_folder", "create"):
            self._enter(arguments[0], _Node(entries={} if kind == "make_folder" else None))
        elif kind == "write":
            self._find(arguments[0]).data += arguments[1]
        elif kind == "sync":
            node = self._find(arguments[0])
            node.synced_bytes = len(node.data)
        elif kind == "sync_folder":
            self._settle(self._find(arguments[0]))
        elif kind == "link":
            self._enter(arguments[1], self._find(arguments[0]))
        elif kind == "rename":
            self._rename(*arguments)
        elif kind == "unlink":
            self._unlink(arguments[0])

    def crash(self, rng: random.Random, target: Path) -> None:
        """Write one state the cut may leave to `target`: certain names, a random choice of pending ones."""
        names = {key: dict(entries) for key, entries in self._certain.items()}
        everything = rng.random() < 0.3
        for change in self._pending:
            if everything or rng.random() < 0.5:
                self._commit(change, names)
        self._write(self._now, names, rng, target)

    def _parts(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self._root).parts

    def _find(self, path: Path) -> _Node:
        node = self._now
        for part in self._parts(path):
            assert node.entries is not None
            node = node.entries[part]
        return node

    def _parent(self, path: Path) -> _Node:
        return self._find(path.parent)

    def _enter(self, path: Path, node: _Node) -> None:
        parent = self._parent(path)
        assert parent.entries is not None
        parent.entries[path.name] = node
        if node.entries is not None:
            self._certain.setdefault(id(node), {})
        self._kept.append(node)
        self._pending.append(_Change(parent, path.name, node))

    def _rename(self, source: Path, target: Path) -> None:
        old, new = self._parent(source), self._parent(target)
        assert old.entries is not None
        assert new.entries is not None
        node = old.entries.pop(source.name)
        new.entries[target.name] = node
        self._pending.append(_Change(new, target.name, node, also=(old, source.name)))

    def _unlink(self, path: Path) -> None:
        parent = self._parent(path)
        assert parent.entries is not None
        if parent.entries.pop(path.name, None) is not None:
            self._pending.append(_Change(parent, path.name, None))

    def _settle(self, folder: _Node) -> None:
        rest = []
        for change in self._pending:
            if change.folder is folder:
                self._commit(change, self._certain)
            else:
                rest.append(change)
        self._pending = rest

    @staticmethod
    def _commit(change: _Change, names: dict[int, dict[str, _Node]]) -> None:
        entries = names[id(change.folder)]
        if change.node is None:
            entries.pop(change.name, None)
        else:
            entries[change.name] = change.node
        if change.also is not None:
            names[id(change.also[0])].pop(change.also[1], None)

    def _write(self, folder: _Node, names: dict[int, dict[str, _Node]], rng: random.Random, target: Path) -> None:
        target.mkdir()
        for name, node in names[id(folder)].items():
            if node.entries is not None:
                self._write(node, names, rng, target / name)
            else:
                (target / name).write_bytes(_torn(bytes(node.data), node.synced_bytes, rng))


def _torn(data: bytes, synced_bytes: int, rng: random.Random) -> bytes:
    """Bytes as a cut may leave them: what was synced is there; the rest is there, half there, zeros or missing."""
    certain, rest = data[:synced_bytes], data[synced_bytes:]
    if not rest:
        return certain
    return certain + rng.choice([rest, rest[: len(rest) // 2], bytes(len(rest)), b""])
