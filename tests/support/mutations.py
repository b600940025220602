"""Small random damage to text, bytes and plain data: what people, disks and attackers do to files, a step at a time."""

import copy
import random
from collections.abc import Iterator
from typing import Any

HOSTILE_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 10**6, 2**31, 10**19, 10**30, -(10**30), 0.5, -0.5, 1e308, 1e-320,
    "", " ", "x", "no", "off", "1", "1e3", "nan", "inf", "../..", "..", ".", "~", "~nobody-here/x", "/", "a\0b",
    "é漢字🤗", "\ud800", "x" * 5000, "${HOME}", "*", "%s", "<script>", "auto", "cuda:99", "mps", "gpu",
    [], [[]], [None], ["x"], [0], {}, {"x": 1}, {"": {}}, [[[[[[[[]]]]]]]],
]  # fmt: skip

Path = tuple[str | int, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Path of every dict, list and scalar below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from leaves(item, (*path, key))


def mutated_tree(rng: random.Random, tree: Any) -> tuple[Any, str]:
    """A copy with one place changed, and which: another value, a key gone, added, renamed or moved."""
    tree = copy.deepcopy(tree)
    path = rng.choice(list(leaves(tree)))
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    last = path[-1]
    kind = rng.choice(["value", "value", "value", "gone", "added", "renamed", "swapped", "neighbour"])
    if kind == "gone":
        del parent[last]
    elif kind == "added" and isinstance(parent, dict):
        parent[rng.choice(["x", "Name", "k", "sites", "seed", "", "name "])] = rng.choice(HOSTILE_VALUES)
    elif kind == "renamed" and isinstance(parent, dict):
        parent[str(last)[:-1] or "y"] = parent.pop(last)
    elif kind == "swapped" and len(parent) > 1:
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[last], parent[other] = parent[other], parent[last]
    elif kind == "neighbour" and type(parent[last]) in (int, float):
        parent[last] = rng.choice(
            [parent[last] + 1, parent[last] - 1, parent[last] * 2, -parent[last], parent[last] / 2]
        )
    elif kind == "neighbour" and isinstance(parent[last], str):
        parent[last] = mutated_bytes(rng, parent[last].encode())[0].decode("utf-8", "replace")
    else:
        parent[last] = copy.deepcopy(rng.choice(HOSTILE_VALUES))
    return tree, f"{kind} at {'.'.join(map(str, path))}"


def mutated_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """The bytes with one piece of damage, and which."""
    at = rng.randrange(len(data)) if data else 0
    length = min(rng.choice([1, 2, 8, 100, 4096]), max(1, len(data) - at))
    to = rng.randrange(len(data)) if data else 0
    kind = rng.choice(["bit", "bit", "byte", "cut", "zeros", "gone", "twice", "moved", "inserted", "empty", "longer"])
    piece = data[at : at + length]
    new = {
        "bit": lambda: data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else b"\1",
        "byte": lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
        "cut": lambda: data[:at],
        "zeros": lambda: data[:at] + bytes(len(piece)) + data[at + length :],
        "gone": lambda: data[:at] + data[at + length :],
        "twice": lambda: data[:at] + piece + data[at:],
        "moved": lambda: (data[:at] + data[at + length :])[:to] + piece + (data[:at] + data[at + length :])[to:],
        "inserted": lambda: data[:at] + rng.choice(INSERTED) + data[at:],
        "empty": lambda: b"",
        "longer": lambda: data + rng.choice(INSERTED),
    }[kind]()
    return new, f"{kind} at byte {at} of {len(data)}"


INSERTED = [
    b"\0", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b"[" * 2000, b'"', b",", b"9" * 400, b"NaN", b"null",
    b"\xed\xa0\x80", "\u2028".encode(), b"<|end|>", b"\x1b[31m", b": ", b"- ", b"&a ", b"*a ", b"\t", b"#",
]  # fmt: skip
