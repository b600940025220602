"""What the operating system refuses is told with the advice it needs: a full table of files is no damage."""

import ast
import errno
import mmap
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from strata_sae.stores import ActivationStore, StoreError
from strata_sae.stores.errors import explain
from strata_sae.stores.files import places
from strata_sae.stores.files.canonical import read_canonical
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.reading.staged import StagedPlace
from strata_sae.stores.remote.transports import RetryPolicy, open_source
from support.small_store import build_store

ROOT = Path(__file__).resolve().parents[2]
SITE = "blocks.1.hook_resid_post"
NOT_DAMAGE = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.ESTALE]
ADVICE = {
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "close some programs",
    errno.ENOMEM: "free some",
    errno.EACCES: "ask its owner",
    errno.ESTALE: "run the same command again",
    errno.EIO: "dmesg",
    errno.ENOENT: "deleted or moved",
    errno.ENOSPC: "free some",
}


def test_every_place_that_turns_an_os_error_into_ours_explains_it() -> None:
    silent = []
    for path in sorted((ROOT / "stores").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            caught = ast.unparse(node.type) if isinstance(node, ast.ExceptHandler) and node.type is not None else ""
            if "OSError" in caught or "_WEB_ERRORS" in caught:
                text = ast.unparse(node)
                explained = "explain(" in text or "_broken(" in text  # which tells ours from what the network does
                if ("StoreError(" in text or "_broken(" in text) and not explained:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []


def refuse(number: int) -> Callable[..., Any]:
    def refused(*arguments: Any, **named: Any) -> Any:
        raise OSError(number, os.strerror(number), "file")

    return refused


def opened_again(store: Path, patch: pytest.MonkeyPatch, number: int) -> None:
    opened = ActivationStore.open(store)
    patch.setattr(os, "open", refuse(number))
    opened.rows(SITE, 0, 10)


def mapped(store: Path, patch: pytest.MonkeyPatch, number: int) -> None:
    opened = ActivationStore.open(store, io="mmap")
    patch.setattr(mmap, "mmap", refuse(number))
    opened.rows(SITE, 0, 10)


def read(store: Path, patch: pytest.MonkeyPatch, number: int) -> None:
    opened = ActivationStore.open(store, io="pread")
    patch.setattr(os, "pread", refuse(number))
    opened.rows(SITE, 0, 10)


def plan(store: Path, patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(os, "open", refuse(number))
    read_canonical(store / "plan.json")


def looked_at(store: Path, patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(os, "scandir", refuse(number))
    ActivationStore.open(store)


def folder(store: Path, patch: pytest.MonkeyPatch, number: int) -> None:
    source = open_source(store, RetryPolicy())
    patch.setattr(os, "open", refuse(number))
    source.get_range("MANIFEST.json", 0, 10)


def staged(store: Path, patch: pytest.MonkeyPatch, number: int) -> None:
    base = places.LocalPlace(store, mapped=False)
    place = StagedPlace(base, store.with_name("near"), {"plan.json": FileRecord("plan.json", 1, "0" * 64)})
    patch.setattr(os, "open", refuse(number))
    place.open("plan.json")


PLACES = [opened_again, mapped, read, plan, looked_at, folder, staged]


@pytest.mark.parametrize("number", ADVICE, ids=errno.errorcode.get)
@pytest.mark.parametrize("place", PLACES)
def test_the_advice_fits_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[..., None], number: int
) -> None:
    store = build_store(tmp_path / "store", 300, {SITE: 8})
    if (place, number) in ((plan, errno.ENOENT), (folder, errno.ENOENT)):
        return  # told apart before: a store without this file
    with monkeypatch.context() as patch, pytest.raises(StoreError) as caught:
        place(store, patch, number)
    assert ADVICE[number] in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    if number in NOT_DAMAGE:
        assert "fetch" not in str(caught.value)
        assert "damaged, " not in str(caught.value)


def test_a_really_full_table_of_files(tmp_path: Path) -> None:
    opened = ActivationStore.open(build_store(tmp_path / "store", 1000, {SITE: 8}, shard_bytes=4096), io="pread")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    filling = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with suppress(OSError):
            while True:
                filling.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(StoreError, match=r"Too many open files; the file is not damaged.*ulimit -n"):
            opened.rows(SITE, 0, 1000)
    finally:
        for descriptor in filling:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_an_error_without_a_number_is_told_as_it_is() -> None:
    assert explain(OSError("the disk said no")) == "the disk said no"
    assert explain(OSError(errno.EPIPE, "Broken pipe")) == "Broken pipe"
    assert explain(TimeoutError()) == "TimeoutError"
