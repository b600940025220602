"""Who makes codes changes no byte of them: one worker or four, killed or not, asked to end or not."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from strata_sae.pipeline import stopping
from strata_sae.pipeline.codes import encoding, estimate
from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.codes.coding import claimed
from strata_sae.pipeline.errors import CheckpointError, StoppedError
from strata_sae.pipeline.runs import claims
from strata_sae.pipeline.runs.claims import claim_in, codes_of, living, trained_now
from strata_sae.pipeline.runs.deleting import deletable_variants, delete_run, delete_variants
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.listing import list_runs
from strata_sae.stores.files.hashing import file_sha256
from support.evaluation_folder import SITE
from support.forked_engine import Forked, lives
from support.run_of_all_kinds import RUN, at, make

NAMES = [f"{name}@{SITE}" for name in ("relu", "topk")]
N_KILLS = 20
Fresh = Callable[[str], Path]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles and stretches of few rows, so that there are several of each; and no long wait for other workers."""
    for module in (encoding, estimate):
        monkeypatch.setattr(module, "ROWS_PER_TILE", 64)
    monkeypatch.setattr(encoding, "ROWS_IN_ORDER", 128)
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two SAEs without codes."""
    make(folder := tmp_path_factory.mktemp("shared"))
    for path in (folder / RUN / "variants").iterdir():
        if path.name not in NAMES:
            shutil.rmtree(path)
    return folder


@pytest.fixture
def fresh(world: Path, tmp_path: Path) -> Fresh:
    """A copy of the run in a folder of that name; the store is shared."""

    def make_one(name: str) -> Path:
        shutil.copytree(world / RUN, tmp_path / name / RUN)
        (tmp_path / name / "store").symlink_to(world / "store")
        return tmp_path / name

    return make_one


def build(folder: Path, engine: Forked | None = None) -> None:
    with at(folder) as run:
        build_codes(run.path, n_rows_per_segment=300, **({} if engine is None else {"engine_of": lambda _: engine}))


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file of the codes, but for what lies in staging/."""
    files = [path for path in sorted((folder / RUN).glob("variants/*/codes/**/*")) if path.is_file()]
    return {str(path.relative_to(folder)): file_sha256(path) for path in files if "staging" not in path.parts}


def test_four_workers_make_the_same_bytes(fresh: Fresh) -> None:
    build(one := fresh("one"))
    build(four := fresh("four"), Forked(4))
    assert contents(four) == contents(one)
    assert len({path.rpartition("/codes/")[0] for path in contents(one)}) == len(NAMES)
    assert not RunFolder(four / RUN).claims.exists()


def test_kills_lose_nothing(fresh: Fresh) -> None:
    build(reference := fresh("reference"))
    whole = fresh("whole")
    code, n_steps = lives(lambda: build(whole))
    assert code == 0
    killed, deaths = fresh("killed"), 0
    # Later deaths come after ever more steps, so that each dies somewhere else; whole lives are begun anew.
    for number in range(N_KILLS):
        code, steps = lives(lambda: build(killed), dies_at=1 + number * n_steps // N_KILLS % max(n_steps // 3, 1))
        if code == 0:  # it was finished before it came so far
            shutil.rmtree(killed)
            killed = fresh(f"killed-{number}")
            continue
        assert code == -signal.SIGKILL, steps
        deaths += 1
    assert deaths >= N_KILLS // 2
    build(killed)
    assert contents(killed) == contents(reference)
    assert contents(whole) == contents(reference)


def test_asked_to_end_it_ends_between_two_stretches_and_goes_on(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(reference := fresh("reference"))
    folder, real, seen = fresh("stopped"), encoding.RowsEncoder.stretch, list[int]()

    def stretch(self: encoding.RowsEncoder, start: int, stop: int) -> list[encoding.TileCodes]:
        seen.append(start)
        if (start, stop) == (384, 512):  # a tile of the sample is shorter
            monkeypatch.setitem(stopping._state, "asked", 1)
        return real(self, start, stop)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(encoding.RowsEncoder, "stretch", stretch)
        build(folder)
    monkeypatch.setitem(stopping._state, "asked", 0)
    assert seen[-1] == 384
    assert not RunFolder(folder / RUN).claims.exists()
    begun = contents(folder)
    assert any("segments/0000" in path for path in begun)
    build(folder)
    assert contents(folder) == contents(reference)
    assert begun.items() <= contents(folder).items()


def test_nobody_encodes_what_is_there(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    build(folder := fresh("done"))
    before = contents(folder)
    monkeypatch.setattr(encoding.RowsEncoder, "stretch", lambda *_: pytest.fail("encoded again"))
    build(folder)
    assert contents(folder) == before


def test_a_run_or_an_sae_is_deleted_with_its_codes_and_not_while_they_are_made(fresh: Fresh) -> None:
    build(folder := fresh("deleted"))
    run, (name, other) = RunFolder(folder / RUN), NAMES
    (row,) = list_runs(run.path.parent)
    assert row.n_bytes > sum(path.stat().st_size for path in run.path.glob("variants/*/codes/**/*") if path.is_file())
    with claim_in(run, codes_of(name, "segment-0001")) as held:
        assert living(run) == [held.name]
        assert trained_now(run) == []
        for delete in (lambda: delete_run(run.path), lambda: delete_variants(run.path, name)):
            with pytest.raises(CheckpointError, match="another process is writing this run"):
                delete()
        delete_variants(run.path, other)
    (run.variant(name).codes / "mine.txt").touch()
    with pytest.raises(CheckpointError, match=r"codes/mine\.txt"):
        deletable_variants(run.path, name)
    (run.variant(name).codes / "mine.txt").unlink()
    delete_run(run.path)
    assert not run.path.exists()


def test_codes_are_not_begun_while_their_sae_is_deleted(fresh: Fresh) -> None:
    run = RunFolder(fresh("deleting") / RUN)
    with claim_in(run, NAMES[0]), pytest.raises(CheckpointError, match="another process is writing this run"):
        claimed(run, run.variant(NAMES[0]), "segment-0000")
    held = claimed(run, run.variant(NAMES[0]), "segment-0000")
    assert held is not None
    held.release()
