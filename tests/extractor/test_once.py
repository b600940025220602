"""What is made once: whoever comes second waits for it, says so in one line, and takes it over from the first."""

from pathlib import Path

import pytest

import strata_sae.pipeline.once as once
from strata_sae.pipeline import stopping
from strata_sae.pipeline.errors import StoppedError
from strata_sae.pipeline.extractor.extract import describe_plan
from strata_sae.pipeline.extractor.plan import planned
from strata_sae.pipeline.once import made_once, make_each
from strata_sae.stores.files.claims import claim
from support.extraction import extraction_config


def test_a_dry_run_does_not_wait_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = extraction_config(tmp_path)
    monkeypatch.setattr(once, "pause", lambda _: pytest.fail("it waited"))
    held = claim(tmp_path / ".store.planner")
    assert held is not None
    with held:
        before = set(tmp_path.iterdir())
        assert "units" in describe_plan(config, show_progress=False)
        assert set(tmp_path.iterdir()) == before


def test_one_line_says_who_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    looks: list[float] = []
    held = claim(tmp_path / "it")
    assert held is not None

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            (tmp_path / "made").touch()

    def found() -> bool | None:
        return (tmp_path / "made").exists() or None

    with held:
        assert made_once(tmp_path / "it", "the thing", found, lambda: pytest.fail("made twice"), wait=wait)
    assert [record.message for record in caplog.records] == [
        f"the thing is made by another process of this machine; waiting for it ({tmp_path / 'it.lock'})"
    ]
    assert made_once(tmp_path / "it", "", found, lambda: pytest.fail("made twice"), wait=pytest.fail)


def test_what_ended_without_being_made_is_made_by_the_next(tmp_path: Path) -> None:
    held = claim(tmp_path / "it")
    assert held is not None
    assert made_once(tmp_path / "it", "it", lambda: None, lambda: 7, wait=lambda _: held.release()) == 7
    with pytest.raises(ZeroDivisionError):
        made_once(tmp_path / "it", "it", lambda: None, lambda: 1 // 0)
    assert not list(tmp_path.iterdir()), "a failure gives the claim back"


def test_a_request_to_end_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = extraction_config(tmp_path)
    held = claim(tmp_path / ".store.planner")
    assert held is not None
    monkeypatch.setattr(stopping, "asked", lambda: True)
    with held, pytest.raises(StoppedError):
        planned(config, show_progress=False)
    assert not config.store_path().exists()


def test_of_several_things_those_that_another_makes_come_last() -> None:
    asked: list[tuple[str, bool]] = []

    def make(name: str, wait: bool) -> bool:
        asked.append((name, wait))
        return wait or name != "b"

    make_each("abc", make)
    assert asked == [("a", False), ("b", False), ("c", False), ("b", True)]
