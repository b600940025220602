"""An engine runs every item, whoever runs it where; results are files."""

import os
import re
from functools import partial
from pathlib import Path

import pytest

from strata_sae.pipeline.engines import Engine
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.errors import ConfigError
from support.cheap_workers import note_process


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_item_runs_once(n_workers: int, tmp_path: Path) -> None:
    engine: Engine = Local(n_workers)
    looks: list[int] = []
    items = ["a", "b", "c"]
    assert engine.map(partial(note_process, tmp_path), items, lambda: looks.append(len(looks))) == []
    ran = {file.name: int(file.read_text()) for file in tmp_path.iterdir()}
    assert ran.keys() == set(items)
    if n_workers == 1:
        assert set(ran.values()) == {os.getpid()}
        assert not looks
    else:
        assert len(set(ran.values())) == 3, "a process for each item"
        assert os.getpid() not in ran.values()
        assert looks


def test_an_item_that_fails_says_why_and_the_others_run(tmp_path: Path) -> None:
    reasons = Local(2).map(partial(note_process, tmp_path), ["a", "fails", "dies", "b"], lambda: None)
    assert [re.sub(r"\d", "N", reason) for reason in reasons] == [
        "worker N: there is no fails",
        "worker N: killed by SIGKILL",
    ]
    assert {file.name for file in tmp_path.iterdir()} == {"a", "b"}


def test_in_this_process_an_error_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no fails"):
        Local(1).map(partial(note_process, tmp_path), ["fails", "a"], lambda: None)
    assert not list(tmp_path.iterdir())
