"""A folder may have any name that the file system allows, in any place where a store's program takes one."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, verify
from strata_sae.stores.deriving.shuffle import shuffle_store
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.files import mounts
from strata_sae.stores.remote.pull import pull
from strata_sae.stores.remote.push import push
from support.small_store import build_store

SITE = "blocks.1.hook_resid_post"
NAMES = [b"st\xffre", b"\xfc%41", b"%ff", b"a b#c?d", b"line\nbreak", "grün".encode(), b"-x", b"\x80\xe2\x82"]


def pulled(store: Path, out: Path) -> Path:
    pull(store, out)
    return out


def pulled_by_url(store: Path, out: Path) -> Path:
    pull(store.as_uri(), out)
    return out


def pushed(store: Path, out: Path) -> Path:
    push(store, out)
    return out


def pushed_by_url(store: Path, out: Path) -> Path:
    push(store, out.as_uri())
    return out


def sliced(store: Path, out: Path) -> Path:
    return slice_store(ActivationStore.open(store), out).path


def shuffled(store: Path, out: Path) -> Path:
    return shuffle_store(ActivationStore.open(store), out, seed=0).path


def staged(store: Path, out: Path) -> Path:
    rows = ActivationStore.open(store, stage=out).rows(SITE, 0, 300)
    np.testing.assert_array_equal(rows, ActivationStore.open(store).rows(SITE, 0, 300))
    assert any(out.iterdir())
    return store


def opened_by_url(store: Path, out: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATA_CACHE", str(out))
        rows = ActivationStore.open(store.as_uri()).rows(SITE, 0, 300)
    np.testing.assert_array_equal(rows, ActivationStore.open(store).rows(SITE, 0, 300))
    assert any(out.iterdir())
    return store


WAYS = [pulled, pulled_by_url, pushed, pushed_by_url, sliced, shuffled, staged, opened_by_url]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("way", WAYS)
def test_any_name_goes_any_way(tmp_path: Path, way: Callable[[Path, Path], Path], name: bytes) -> None:
    store = build_store(tmp_path / os.fsdecode(name), 300, {SITE: 8})
    out = way(store, tmp_path / os.fsdecode(b"out-" + name))
    assert verify(out, deep=True) == []
    names = {entry for entry in os.listdir(os.fsencode(tmp_path)) if not entry.startswith(b".")}
    assert names <= {name, b"out-" + name}, "and no folder of another name is made"


def test_the_mount_table_may_name_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = tmp_path / os.fsdecode(b"f\xffr away")
    table = tmp_path / "mounts"
    table.write_bytes(b"/dev/sda / ext4 rw 0 0\nx " + os.fsencode(far).replace(b" ", b"\\040") + b" nfs rw 0 0\n")
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    assert not mounts.is_safe_to_map(far / "store")
