"""Foreign folders that somebody has prepared: each is refused in one line, and nothing in them runs."""

import json
import pickle
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner, Result

import strata_sae as strata
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.formats.reading import readable
from support.foreign_folders import write_folder
from support.handed_saes import SITE, WIDTH
from support.hostile_saes import CANARY, OF_SUFFIX, Runs
from support.small_run import run_data
from support.small_store import build_store

CASES = [
    (format, file, harm)
    for format in readable()
    for file in FORMATS[format].files
    for harm in OF_SUFFIX[Path(file).suffix]
]


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of each format that is read."""
    world = tmp_path_factory.mktemp("unharmed")
    for format in readable():
        write_folder(format, world / format)
    return world


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Where a folder lies, and what it must not reach."""
    (tmp_path / ".world").touch()
    return tmp_path


def test_there_are_enough_of_them() -> None:
    assert len(readable()) >= 5
    for format in readable():
        assert sum(case[0] == format for case in CASES) >= 12, format


@pytest.mark.parametrize("format", readable())
def test_the_unharmed_folder_is_read(format: str, unharmed: Path) -> None:
    for given in (format, None):
        found = strata.load(unharmed / format, given)
        assert (found.sae.d_sae, found.name) == (256, str(unharmed / format))


@pytest.mark.parametrize(("format", "file", "harm"), CASES, ids=[" - ".join(case) for case in CASES])
def test_a_prepared_folder_is_refused(format: str, file: str, harm: str, unharmed: Path, world: Path) -> None:
    folder = world / format
    copytree(unharmed / format, folder)
    OF_SUFFIX[Path(file).suffix][harm](folder / file)
    for given in (format, None):
        with pytest.raises((CheckpointError, ConfigError)) as said:
            strata.load(folder, given)
        text = str(said.value)
        assert str(folder) in text
        assert text.isprintable()
        assert len(text) < 600 + 4 * len(str(folder)), text
    assert not (world / CANARY).exists()


def test_a_control_the_pickle_runs_code(world: Path) -> None:
    pickle.loads(pickle.dumps(Runs(world / CANARY)))  # noqa: S301
    assert (world / CANARY).exists()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("store") / "store", 600, {SITE: WIDTH})


def trained_by_command(folder: Path, format: str, store: Path) -> Result:
    """`strata train` of a config whose one variant is a foreign folder."""
    data = run_data(store, {"theirs": {"from": {"format": format, "path": str(folder)}, "site": SITE}})
    data["store"]["sites"] = [SITE]
    (folder.parent / "config.yaml").write_text(json.dumps(data))
    return CliRunner().invoke(app, ["--quiet", "train", str(folder.parent / "config.yaml")])


@pytest.mark.parametrize("format", readable())
def test_the_command_tells_it_in_a_line(
    format: str, unharmed: Path, world: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    cases = [case[1:] for case in CASES if case[0] == format]
    for number, (file, harm) in enumerate(cases[:: len(cases) // 12][:12]):  # of all parts of the list
        folder = world / str(number)
        copytree(unharmed / format, folder)
        OF_SUFFIX[Path(file).suffix][harm](folder / file)
        done = trained_by_command(folder, format, store)
        assert done.exit_code in (1, 2), (harm, done.output)
        assert isinstance(done.exception, SystemExit), (harm, done.exception)
        assert str(folder) in done.output, (harm, done.output)
        assert done.output.strip().isprintable(), (harm, done.output)
    assert not (world / CANARY).exists()
    copytree(unharmed / format, world / "unharmed")
    assert trained_by_command(world / "unharmed", format, store).exit_code == 0, "a control"
