"""What an installation takes on disk: the core beside torch, and what each extra adds to it.

A size is the sum of the files that the distributions of an environment list, without compiled bytecode, which pip
writes while it installs and uv does not. The core beside torch is what an environment with the wheel holds and one with
torch alone does not: `pip install torch` brings the rest.
"""

from importlib.metadata import Distribution, distributions
from pathlib import Path

CORE_BOUND_BYTES = 450_000_000


def site_packages(environment: Path) -> Path:
    """Where an environment's packages lie."""
    return next(environment.glob("lib/python3*/site-packages"))


def by_package(environment: Path, *, bytecode: bool = False) -> dict[str, int]:
    """Name of a distribution -> bytes of its files, or of its bytecode alone. Installers are left out."""
    found = distributions(path=[str(site_packages(environment))])
    sizes = {distribution.name.lower(): _n_bytes(distribution, bytecode) for distribution in found}
    return {name: n_bytes for name, n_bytes in sizes.items() if name not in ("pip", "setuptools")}


def _n_bytes(distribution: Distribution, bytecode: bool) -> int:
    listed = (Path(str(file.locate())) for file in distribution.files or [])
    return sum(path.stat().st_size for path in listed if ("__pycache__" in path.parts) == bytecode and path.is_file())


def added(larger: dict[str, int], smaller: dict[str, int]) -> dict[str, int]:
    """The packages that only the larger environment has, the largest first."""
    only = {name: n_bytes for name, n_bytes in larger.items() if name not in smaller}
    return dict(sorted(only.items(), key=lambda item: -item[1]))


def row(name: str, sizes: dict[str, int], n_named: int = 6) -> str:
    """A line of the table in docs/installing.md: what it is called, megabytes, packages, the largest of them."""
    largest = ", ".join(f"{package} {n_bytes / 1e6:.0f}" for package, n_bytes in list(sizes.items())[:n_named])
    return f"| {name} | {sum(sizes.values()) / 1e6:,.0f} MB | {len(sizes)} | {largest} |"
