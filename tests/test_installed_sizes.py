"""The sizes that the package lot prints and bounds: files of packages, without bytecode, and only what is added."""

import runpy
from pathlib import Path

SIZES = runpy.run_path(str(Path(__file__).parents[1] / ".ci/installed_sizes.py"))


def environment(folder: Path, **packages: int) -> Path:
    """An environment with a package of each size in it, and bytecode of 7 bytes."""
    site = folder / "lib/python3.11/site-packages"
    for name, n_bytes in packages.items():
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / name / "__pycache__").mkdir(parents=True)
        (site / name / "code.py").write_bytes(b"#" * n_bytes)
        (site / name / "__pycache__/code.pyc").write_bytes(b"#" * 7)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{name}/code.py,,\n{name}/__pycache__/code.pyc,,\n{name}/gone.py,,\n")
    return folder


def test_sizes_are_of_files_and_only_of_what_is_added(tmp_path: Path) -> None:
    core = SIZES["by_package"](environment(tmp_path / "core", torch=50, numba=2_000_000, small=3_000_000, pip=9))
    assert core == {"torch": 50, "numba": 2_000_000, "small": 3_000_000}
    assert SIZES["by_package"](tmp_path / "core", bytecode=True) == {"torch": 7, "numba": 7, "small": 7}
    beside = SIZES["added"](core, SIZES["by_package"](environment(tmp_path / "torch", torch=50)))
    assert list(beside.items()) == [("small", 3_000_000), ("numba", 2_000_000)]
    assert SIZES["row"]("core", beside) == "| core | 5 MB | 2 | small 3, numba 2 |"


def test_the_bound_is_that_of_the_issue() -> None:
    assert SIZES["CORE_BOUND_BYTES"] == 450_000_000
