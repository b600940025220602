"""Every file and name that README and the pages of docs/ mention exists; the layers of the page are the contracts'."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from strata_sae.pipeline.runs import comparison_records, environment, evaluation_records, records
from strata_sae.pipeline.runs.records import Record

ROOT = Path(__file__).parents[1]
PAGE = "docs/architecture.md"
# log.md and the decisions say how things were called when they were written.
AT_THE_ROOT = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
PAGES = [*AT_THE_ROOT, *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md") if path.name != "log.md")]
MADE_BY_THE_PAGE = {"pipeline/saes/abs_topk.py", "pipeline/objective/l2.py"}
"""Files that docs/adding_a_variant.md adds; its test makes them."""
FOLDERS = ("pipeline/", "stores/", "strata_sae/", "configs/", "tests/", "docs/", "benchmarks/", ".ci/")
DOTTED = re.compile(r"(?<![\w./])(?:strata_sae\.)?(?:pipeline|stores)\.[a-z_]\w*(?:\.\w+)*")


def texts(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def wrong_paths(text: str) -> list[str]:
    """Paths of this repository, in backticks, that lead to nothing; {a,b} stands for both and * for any name."""
    found = [path for path in re.findall(r"`([\w.{},*/-]+)`", text) if path.startswith(FOLDERS)]
    every = [one for path in found for one in _without_braces(path)]
    return sorted(path for path in set(every) - MADE_BY_THE_PAGE if not _exists(path))


def _exists(path: str) -> bool:
    return any(ROOT.glob(path.rstrip("/")))


def _without_braces(path: str) -> Iterator[str]:
    before, brace, rest = path.partition("{")
    inside, _, after = rest.partition("}")
    for choice in inside.split(",") if brace else []:
        yield from _without_braces(before + choice + after)
    if not brace:
        yield path


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a file defines: functions, classes, and what a module or class assigns; `A.b` for what is in a class."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")).body))


def _names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            inner = list(_names(node.body))
            yield from inner
            yield from (f"{node.name}.{name}" for name in inner)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def wrong_names(text: str) -> list[str]:
    """Names in backticks, after `path.py`: and before the next path, that the file does not define."""
    wrong = []
    for line in re.sub(r"\n {2,}", " ", text).splitlines():
        for path, after in re.findall(r"`((?:pipeline|stores)/[\w/]+\.py)`: (.*?)(?=`[\w/]+/[\w.]*`|\||$)", line):
            known = names_in(ROOT / path) if (ROOT / path).is_file() else frozenset()
            wrong += [f"{path}: {name}" for name in re.findall(r"`([A-Za-z_][\w.]*)`", after) if name not in known]
    return wrong


def wrong_modules(text: str) -> list[str]:
    """Dotted names of modules, and of what is in them, that do not exist."""
    return sorted({name for name in DOTTED.findall(text) if not _is_module(name.removeprefix("strata_sae."))})


def _is_module(name: str) -> bool:
    steps = name.split(".")
    for length in range(len(steps), 0, -1):
        path = ROOT.joinpath(*steps[:length])
        files = [path.with_suffix(".py"), path / "__init__.py", path / "__init__.pyi"]
        if any(file.is_file() for file in files):
            rest = ".".join(steps[length:])
            return not rest or any(_defines(file, rest) for file in files if file.is_file())
    return False


def _defines(file: Path, name: str) -> bool:
    return (
        name in names_in(file) or re.search(rf" as {re.escape(name)}\b", file.read_text(encoding="utf-8")) is not None
    )


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    assert wrong_paths(texts(page)) == []
    assert wrong_names(texts(page)) == []
    assert wrong_modules(texts(page)) == []


def test_control_what_does_not_exist_is_seen() -> None:
    text = (
        "| `pipeline/saes/topk.py`: `TopK`, `TopK.select`, `Topk` | `pipeline/saes/top_k.py` | `stores/` |\n"
        "1. `stores/serving/batches.py`: `Batches` and\n   `Butches`; `configs/{demo,smoke,demonstration}.yaml`\n"
        "`pipeline.loaders`, strata_sae.stores.Batches, `pipeline.iterators`, from strata_sae.stores.serving.mix import"
    )
    assert wrong_paths(text) == ["configs/demonstration.yaml", "pipeline/saes/top_k.py"]
    assert wrong_names(text) == ["pipeline/saes/topk.py: Topk", "stores/serving/batches.py: Butches"]
    assert wrong_modules(text) == ["pipeline.iterators", "strata_sae.stores.serving.mix"]


def section(page: str, heading: str) -> str:
    return texts(page).split(f"{heading}\n", 1)[1].split("\n#", 1)[0]


def test_every_step_of_a_walk_begins_with_its_file() -> None:
    walks = texts(PAGE).split("## The walks\n", 1)[1].split("\n## ", 1)[0]
    steps = re.findall(r"^\d+\. (.*)", walks, flags=re.MULTILINE)
    assert len(walks.split("\n### ")) == 8
    assert len(steps) > 60
    assert [step for step in steps if not step.startswith(("`pipeline/", "`stores/", "As above"))] == []


@pytest.mark.parametrize(("place", "container"), [(0, "strata_sae.pipeline"), (1, "strata_sae.stores")])
def test_the_layers_of_the_page_are_those_of_the_contracts(place: int, container: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == [container])
    block = re.findall(r"^```\n(.*?)^```", section(PAGE, "## Layers"), flags=re.DOTALL | re.MULTILINE)[place]
    assert [re.split(r" {2,}", line)[0] for line in block.splitlines()] == layers


def test_every_record_stands_beside_its_file() -> None:
    """And no other type does."""
    classes = {
        name
        for module in (records, evaluation_records, comparison_records, environment)
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, Record) and found.__module__ == module.__name__
    }
    rows = re.findall(r"^\| [^|]* \| (?:lines: )?`(\w+)` \|", section(PAGE, "## Who writes what"), flags=re.MULTILINE)
    assert sorted(rows) == sorted(classes - {"Record"})


def test_the_tree_of_the_readme_is_there() -> None:
    folder = ROOT
    lines = section("README.md", "## Where things are").split("```")[1].strip().splitlines()
    assert len(lines) > 10
    for line in lines:
        names = re.split(r" {3,}", line.strip())[0].split()
        folder = ROOT if not line.startswith(" ") else folder
        assert [name for name in names if not (folder / name).exists()] == []
        folder = ROOT / names[0] if not line.startswith(" ") else folder


def test_every_test_of_the_faults_page_is_there() -> None:
    """A bare name is a file of tests/stores, or a part of a test's name in one."""
    cells = re.findall(r"^\| [A-Z]\d.*? \| .*? \| (.*?) \|", texts("docs/faults.md"), flags=re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`((?:\w+/)?test_\w+\.py)`", cell)]
    bare = {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)} - {"pread", "verify", "plan"}
    tests = [test for path in ROOT.glob("tests/stores/test_*.py") for test in names_in(path)]
    assert len(named) > 20
    assert len(bare) > 15
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []
    known = [name for name in bare if (ROOT / f"tests/stores/test_{name}.py").is_file()]
    assert {name for name in bare - set(known) if not any(name in test for test in tests)} == set()
