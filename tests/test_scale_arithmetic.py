"""docs/scale_arithmetic.md: its tables are what the script prints, and its formulas are those of the product."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.sharding import cut
from strata_sae.stores import ActivationStore
from support import side_by_side
from support.side_by_side import VARIANTS, bytes_of_20_updates

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "scale_arithmetic.py"))
FORMULAS = runpy.run_path(str(ROOT / "benchmarks" / "scale_formulas.py"))
Case, offered, again, number = (FORMULAS[name] for name in ("Case", "offered", "again", "number"))
PETABYTE, MANY = SCRIPT["PETABYTE"], SCRIPT["MANY"]


def test_the_page_holds_the_scripts_output() -> None:
    page = (ROOT / "docs" / "scale_arithmetic.md").read_text(encoding="utf-8")
    assert page.endswith(SCRIPT["output"]() + "\n"), "paste the output of benchmarks/scale_arithmetic.py into the page"


def test_the_large_case_by_hand() -> None:
    """1 PB of rows of 8,192 numbers, 2^24 latents, k 128, batches of 2^16 rows, 512 ranks."""
    rows = 1e15 / 16_388
    assert PETABYTE.rows == pytest.approx(rows)
    assert PETABYTE.units == 232_774 == -(-int(rows) // 262_144)
    assert PETABYTE.forward == pytest.approx(70.6e9 * rows / (512 * 396e12))
    assert PETABYTE.encoder("float32") == pytest.approx(2 * 2**16 * 8192 * 2**24 / 512 / 43.6e12)
    held = 2 * 2**24 * 8192 / 512 + 2**24 / 512 + 8192
    assert PETABYTE.adam == pytest.approx(28 * held / 2.85e12)
    assert PETABYTE.checkpoint_bytes == pytest.approx(12 * held)
    assert PETABYTE.reduce_bytes == pytest.approx(2 * 511 / 512 * (4 * 2**16 * 8192 + 4 * 8192 + 4 * 2**16 + 32))
    assert PETABYTE.gather_bytes(5) == 511 * 4 * 2**16 * 5
    saving = 8 * 12 * held / 2e9 + 12 * held / 1.48e9
    assert PETABYTE.best_interval == pytest.approx(sqrt(2 * saving * 50_700 * 3600 / 512))
    parts = [PETABYTE.encoder("tf32"), PETABYTE.pairs, PETABYTE.dense, PETABYTE.adam, PETABYTE.wire, PETABYTE.copy]
    assert PETABYTE.step("tf32") == pytest.approx(sum(parts))
    assert PETABYTE.bound("tf32") == pytest.approx(sum(parts[:4]))


def test_saes_of_a_card_share_the_batch_and_send_nothing() -> None:
    each = MANY.encoder("tf32") + MANY.pairs + MANY.dense + MANY.adam
    assert MANY.step("tf32") == pytest.approx(MANY.copy + 3 * each)
    assert MANY.wire == 0.0


@pytest.mark.parametrize(("k", "ranks"), [(128, 512), (64, 8), (32, 4)])
def test_short_offers_suffice_as_often_as_said(k: int, ranks: int) -> None:
    """Latents are thrown on ranks: the share of rows in which some rank holds more than it offered."""
    offer = offered(k, ranks)
    rng = np.random.default_rng(0)
    held = rng.multinomial(k, np.full(ranks, 1 / ranks), size=20_000)
    for allowed in (offer, offer - 1):
        found = float((held.max(axis=1) >= allowed).mean())
        expected = again(k, ranks, allowed)
        assert found <= expected * 1.2 + 1e-3  # a union's bound
        assert (expected <= 0.01) == (allowed == offer)


def test_sizes_of_records_are_those_of_a_store(make_store: Callable[..., Path]) -> None:
    """A commit record, MANIFEST and plan.json of a real store, beside the formulas."""
    d_model = 512
    path = make_store("wide", n_rows=4096, sites={"blocks.0.hook_resid_post": d_model}, encoding="bfloat16")
    plan = ActivationStore.open(path).plan
    commit = max((path / "commits").rglob("*.json"), key=lambda file: file.stat().st_size)
    columns = number("column") * d_model
    assert 0.8 * columns < commit.stat().st_size < 1.3 * (columns + number("bins"))
    (manifest,) = path.glob("MANIFEST.json")
    assert manifest.stat().st_size == pytest.approx(93 * plan.n_units, abs=600)
    assert PETABYTE.token_files == 4 * -(-int(PETABYTE.rows) // 2**24)


@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_of_a_step_are_those_that_ranks_are_counted_to_send(ranks: int) -> None:
    """The formula of tests/engines/test_shards.py, which torchrun's ranks are held to, for its TopK case."""
    assert VARIANTS["topk"]["sae"]["architecture"] == "topk"
    small = replace(SCRIPT["ONE"], d_model=side_by_side.M, batch=side_by_side.B, k=side_by_side.K, ranks=ranks)
    sent = small.reduce_bytes + small.gather_bytes(offered(small.k, ranks))
    counted = bytes_of_20_updates("topk", ranks, rows_again=0)
    assert counted == int(side_by_side.N_STEPS * sent)
    assert counted != int(side_by_side.N_STEPS * (sent + 1))


@pytest.mark.parametrize("ranks", [2, 4, 8, 64, 512])
@pytest.mark.parametrize("k", [16, 64, 128])
def test_offers_are_as_short_as_the_products(k: int, ranks: int) -> None:
    assert offered(k, ranks) == cut.offered(k, ranks)
