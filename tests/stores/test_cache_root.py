"""Where everything that can be made again is kept: one folder, whoever asks."""

import os
import pwd
from pathlib import Path

import pytest

from strata_sae.stores import StoreError
from strata_sae.stores.format.folders import cache_root


def test_the_folder_is_the_one_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("STRATA_CACHE", raising=False)
    assert cache_root() == tmp_path / ".cache" / "strata"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/x")
    assert cache_root() == tmp_path / "x" / "strata"
    monkeypatch.setenv("STRATA_CACHE", "~/s")
    assert cache_root() == tmp_path / "s"


def test_a_user_without_a_home_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "STRATA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(StoreError, match="set STRATA_CACHE"):
        cache_root()
    monkeypatch.setenv("STRATA_CACHE", os.sep + "somewhere")
    assert cache_root() == Path("/somewhere")
