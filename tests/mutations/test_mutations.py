"""Thousands of damaged inputs: each is refused in a few words, or changes nothing, or is recorded as what it is."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import strata_sae.stores as stores
from strata_sae.pipeline.config import loading
from strata_sae.pipeline.extractor.sources import Noted
from strata_sae.pipeline.language_model import loading as description
from strata_sae.pipeline.runs import chain
from strata_sae.stores.reading.array import StoredArray
from strata_sae.stores.remote.transports import Retries
from support.mutation_families import FAMILIES, ROWS, SHARES, Verdict
from support.mutation_world import World, make_world

CASES = int(os.environ.get("STRATA_MUTATIONS", "2000"))
LOTS = 4
"""Parts of a family that processes can share."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for each process: cases damage it and bring it back."""
    before = Path.cwd()
    try:
        yield make_world(tmp_path_factory.mktemp("world"))
    finally:
        os.chdir(before)


@pytest.mark.parametrize("lot", range(LOTS))
@pytest.mark.parametrize("family", FAMILIES)
def test_damage_is_refused_or_recorded_or_changes_nothing(world: World, family: str, lot: int) -> None:
    n_cases = max(1, CASES * SHARES[family] // 100 // LOTS)
    verdicts: list[Verdict] = []
    for number in range(n_cases):
        verdict = FAMILIES[family](world, random.Random(f"{family} {lot} {number}"))
        verdicts.append(verdict._replace(case=f"[{family} {lot} {number}] {verdict.case}"))
    wrong = [verdict.case for verdict in verdicts if verdict.kind == "wrong"]
    assert not wrong, f"{len(wrong)} of {n_cases}:\n" + "\n".join(wrong[:20])
    kinds = Counter(verdict.kind for verdict in verdicts)
    # Most variables change nothing, whatever they hold: few of a lot's are refused.
    few = 100 if family == "environment" else 40
    assert n_cases < few or kinds["refused"] > 0, f"nothing is refused: {kinds}"


def test_every_family_has_its_share() -> None:
    assert set(SHARES) == set(FAMILIES)
    assert sum(SHARES.values()) == 100


def _bug(*_: object) -> None:
    raise KeyError("a planted bug")


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "configs": lambda patch: patch.setattr(loading, "lines_of", _bug),
    **dict.fromkeys(ROWS, lambda patch: patch.setattr(Noted, "provenance", lambda self: {})),
    "models": lambda patch: patch.setattr(description.identity, "of_weights", lambda *_, **__: {}),
    "stores": lambda patch: patch.setattr(StoredArray, "_check_place", lambda *_: None),
    "runs": lambda patch: patch.setattr(chain, "_check", lambda *_: None),
    "answers": lambda patch: patch.setattr(Retries, "failed", _bug),
    "environment": lambda patch: patch.setattr(stores, "stores_table", lambda _: f"{os.environ.get('LANG')}"),
}
"""A hole for each family, of the kind that it is there to find."""


@pytest.mark.parametrize("family", FAMILIES)
def test_control_a_planted_hole_is_found(world: World, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    # What undamaged files give is asked before the hole is there.
    FAMILIES[family](world, random.Random(0))
    PLANTED[family](monkeypatch)
    for number in range(2000):
        if FAMILIES[family](world, random.Random(f"planted {number}")).kind == "wrong":
            return
    pytest.fail("the hole was not found")
