"""The documentation that every Python carries: its language reference, and the standard library's docstrings."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from strata_sae.pipeline.config.corpus import PythonDocs
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.document import Document, Place

SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read(source: PythonDocs) -> Iterator[Document]:
    """First the topics of `help()`, then one document a module; both sorted by name."""
    yield from _topics()
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted((path.relative_to(library).as_posix(), path) for path in library.rglob("*.py"))
    for name, path in modules:
        if SKIPPED_FOLDERS.isdisjoint(name.split("/")) and (text := module_documentation(name, path)):
            yield Document(Place(f"python_docs:{name}"), text=text)


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ConfigError(
            "python_docs: this Python lacks pydoc_data.topics; use a complete Python, or another source of text"
        ) from error
    for name in sorted(topics):
        yield Document(Place(f"python_docs:topics[{name}]"), text=topics[name])


def module_documentation(name: str, path: Path) -> str:
    """The docstrings of a module, its classes and functions, each under its name, in source order.

    The file is parsed, never imported: importing `antigravity` opens a browser.
    """
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return "\n\n".join(_docstrings(ast.parse(path.read_bytes(), name), module))


def _docstrings(node: ast.AST, name: str) -> Iterator[str]:
    if isinstance(node, Documented) and (docstring := ast.get_docstring(node)):
        yield f"{name}\n\n{docstring}"
    for child in ast.iter_child_nodes(node):
        # Definitions stand in `if` and `try` blocks, too, and never in expressions.
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _docstrings(child, name)
