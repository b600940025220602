"""`strata export` for viewers: a whole folder or none, the same bytes each time, and what is refused in a line."""

import json
import logging
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.export import exporting
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.export.viewers import VIEWERS
from strata_sae.pipeline.export.viewers.subject import Subject
from support.coded_run import RUN
from support.viewed_run import HOSTILE, NAME, make

OUT = Path("out/of here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make(made := tmp_path_factory.mktemp("zaphod"))
    return made


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    yield
    for path in sorted(Path("out").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def command(format: str, name: str = NAME) -> Result:
    return CliRunner().invoke(
        app, ["--quiet", "export", str(RUN / name), "--format", format, "--out", str(OUT)], catch_exceptions=False
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", VIEWERS)
def test_the_same_bytes_each_time_and_nothing_beside_them(format: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("strata_sae").setLevel(logging.WARNING)
    OUT.mkdir(parents=True)  # an empty folder is as good as none
    result = command(format)
    assert (result.exit_code, result.output) == (0, "")
    assert [path.name for path in OUT.parent.iterdir()] == [OUT.name]
    export(RUN / NAME, format, again := OUT.parent / "again")
    found = contents(OUT)
    assert found == contents(again)
    export(RUN / NAME.replace("topk", "wide"), format, other := OUT.parent / "other")
    assert contents(other) != found
    said = json.loads(found["strata.json"])
    assert (said["format"], said["sae"], said["n_latents"], said["n_rows"]) == (format, NAME, 48, 1200)
    assert said["n_rows_kept"] == 1160
    assert not any(b"zaphod" in data for data in found.values())


def full(run: Path) -> None:
    OUT.mkdir(parents=True)
    (OUT / "a file").touch()


def its_own(run: Path) -> None:
    export(run / NAME, "delphi", OUT)


def a_link(run: Path) -> None:
    OUT.parent.mkdir(exist_ok=True)
    OUT.symlink_to(run.absolute())


@pytest.mark.parametrize("damage", [full, its_own, a_link])
def test_a_folder_that_is_not_empty_is_left_alone(damage: Callable[[Path], None]) -> None:
    damage(RUN)
    before = contents(OUT.parent)
    result = command("delphi")
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1)
    assert "is there already; name a folder that does not exist, or is empty" in result.output
    assert contents(OUT.parent) == before


def test_an_sae_without_codes_says_how_to_make_them(folder: Path) -> None:
    codes = RUN / "variants" / NAME / "codes"
    codes.rename(codes.with_name("away"))
    try:
        result = command("parquet")
    finally:
        codes.with_name("away").rename(codes)
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1)
    assert "has no codes yet" in result.output
    assert result.output.rstrip().endswith(f"strata codes {RUN.absolute()}")
    assert not OUT.exists()


def test_a_format_that_is_none(folder: Path) -> None:
    result = command("neuronpedias")
    assert (result.exit_code, "did you mean 'neuronpedia'?" in result.output) == (2, True)


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt(), ValueError("a bug")])
def test_nothing_half_written_stays(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(_: Subject, out: Path) -> None:
        (out / "part").mkdir()
        (out / "part" / "file").write_text("half")
        raise error

    monkeypatch.setitem(exporting.VIEWERS, "delphi", broken)
    with pytest.raises(type(error)):
        export(RUN / NAME, "delphi", OUT)
    assert list(OUT.parent.iterdir()) == []


@pytest.mark.parametrize("format", VIEWERS)
def test_a_file_that_may_not_grow_is_told_as_one(format: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            export(RUN / NAME, format, OUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not OUT.exists()
    assert list(OUT.parent.iterdir()) == []


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'strata-sae\[parquet\]'"):
        export(RUN / NAME, "parquet", OUT)


def test_neither_model_nor_peers_are_loaded(folder: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('transformers', 'datasets', 'sae_lens', 'huggingface_hub', 'pyarrow'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from strata_sae.pipeline.export.exporting import export\n"
        f"export(Path({str(RUN / NAME)!r}), 'neuronpedia', Path({str(OUT)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert OUT.is_dir()


def strings(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, dict):
        yield from (text for key, value in found.items() for text in (key, *strings(value)))
    elif isinstance(found, list):
        yield from (text for item in found for text in strings(item))


def test_hostile_words_are_shown_and_do_nothing(folder: Path) -> None:
    export(RUN / NAME, "circuit_tracer", OUT)
    shown = [text for path in (OUT / "features").iterdir() for text in strings(json.loads(path.read_text("utf-8")))]
    assert "<script>alert(1)</script>" in shown
    assert "a␀b" in shown
    assert "€" in shown, "the two halves of a character are one, at the second"
    assert "\N{REPLACEMENT CHARACTER}" in shown
    together = "".join(shown)
    assert not {*together} & {*"\0\r\u2028\u202e\u2066"}
    assert max(map(len, shown)) <= 201
    assert len(HOSTILE) == 9
    assert any("⟨U+202E⟩turned" in text for text in shown)
