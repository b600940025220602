"""One name to import: in a checkout, beside a user's own folders, in archives with and without links."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALONE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in f.__module__]; "
"""An installation in development finds the packages whatever else is there."""
ASK = "import strata_sae.pipeline.settings, strata_sae.stores; print(strata_sae.stores.StoreError.__module__)"


def python(code: str, folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a folder, with nothing of this checkout on the path but what is given."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        [sys.executable, "-c", ALONE + code], cwd=folder, env=environment, capture_output=True, text=True
    )


def packages(folder: Path, *, links: bool) -> Path:
    """The packages in a zip file made and unpacked as a hosting site and a desktop do, with links or without."""
    with zipfile.ZipFile(folder / "strata.zip", "w") as archive:
        for package in ("pipeline", "stores"):
            for path in sorted([*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.pyi")]):
                archive.write(path, path.relative_to(ROOT))
            archive.writestr(f"strata_sae/{package}", f"../{package}")
        for name in ("__init__.py", "__init__.pyi"):
            archive.write(ROOT / "strata_sae" / name, f"strata_sae/{name}")
    with zipfile.ZipFile(folder / "strata.zip") as archive:
        archive.extractall(folder / "unpacked")
    for package in ("pipeline", "stores") if links else ():
        link = folder / "unpacked" / "strata_sae" / package
        target = link.read_text()
        link.unlink()
        link.symlink_to(target)
    return folder / "unpacked"


@pytest.mark.parametrize("links", [True, False])
def test_it_is_found_in_an_archive_with_and_without_links(tmp_path: Path, links: bool) -> None:
    root = packages(tmp_path, links=links)
    done = python(f"{ASK}; print(strata_sae.stores.__file__)", tmp_path, root)
    module, file = done.stdout.split()
    assert module == "strata_sae.stores.errors"
    assert Path(file).resolve() == root / "stores" / "__init__.py", "the copy, not this checkout"


def test_control_without_the_packages_it_is_not_found(tmp_path: Path) -> None:
    root = packages(tmp_path, links=False)
    shutil.rmtree(root / "stores")
    assert "ModuleNotFoundError" in python(ASK, tmp_path, root).stderr


def test_folders_of_the_same_names_are_never_met(tmp_path: Path) -> None:
    for name in ("pipeline", "stores"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("mine = True\n")
    done = python(f"import pipeline, stores; {ASK}; print(pipeline.mine, stores.mine)", tmp_path, ROOT)
    assert done.stdout.split() == ["strata_sae.stores.errors", "True", "True"], done.stderr


@pytest.mark.parametrize("package", ["pipeline", "stores"])
def test_a_second_copy_under_another_name_is_refused(package: str) -> None:
    done = python(f"import {package}", ROOT)
    assert f"ImportError: import strata_sae.{package}" in done.stderr


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, strata_sae; print(sorted({'numpy', 'torch', 'zarr', 'pydantic'} & set(sys.modules)))"
    assert python(code, ROOT).stdout.strip() == "[]"


def test_every_name_of_the_face_is_there_and_says_what_it_takes() -> None:
    import strata_sae

    for name in strata_sae.__all__:
        assert len((getattr(strata_sae, name).__doc__ or "").strip()) > 10, name
    with pytest.raises(AttributeError, match="No strata_sae attribute open_stores"):
        getattr(strata_sae, "open_" + "stores")
