"""Loops are compiled where nothing can be kept on disk, too."""

import numba.core.caching
import pytest

from pipeline.kernels.compiled.jit import compiled


def doubled(number):
    return 2 * number


def test_without_a_folder_to_keep_them_in_loops_still_compile(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CompileResultCacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):  # control: this is what happens otherwise
        numba.njit(cache=True)(doubled)
    assert compiled(doubled)(21) == 42
