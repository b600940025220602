"""docs/api.md, made from the face: every name of strata_sae/__init__.pyi with its signature, docstring and members.

    .venv/bin/python .ci/api_page.py          # writes the page; tests/test_api_page.py says if it is old

Signatures and docstrings are read from the sources, as they are spelt there.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FunctionType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import strata_sae as strata  # noqa: E402

PAGE = ROOT / "docs/api.md"
WIDTH = 100
"""Of a signature on one line (characters)."""
HEAD = """\
# The Python face

Written by `make page` from the docstrings of what `import strata_sae as strata` offers; a test says when it is out of
date. [notebook.md](notebook.md) shows it at work, [attaching.md](attaching.md) a model with an SAE attached. Tensors'
names end in their shapes: `B` rows or sequences, `S` positions, `M` width of the model, `E` latents, `P` active (row,
latent) pairs. What is not on this page may change without notice.
"""
MADE_BY_USERS = ("Batches", "StreamSettings", "Filters")
"""Classes whose constructor is for users; objects of the others come from functions."""
ALIASES = {
    "Codes": "pipeline/kernels/codes.py",
    "Inference": "pipeline/saes/base.py",
    "Latents": "pipeline/intervention/edits.py",
    "Amounts": "pipeline/intervention/edits.py",
    "Where": "pipeline/intervention/attached.py",
}
"""Names of types in the signatures, and the files that define them."""
Definition = ast.FunctionDef | ast.ClassDef


def page() -> str:
    """The whole page."""
    names = face()
    objects = {name: getattr(strata, name) for name in names}
    functions = [name for name in names if isinstance(objects[name], FunctionType)]
    errors = [name for name in names if name not in functions and issubclass(objects[name], Exception)]
    classes = [name for name in names if name not in functions + errors]
    lines = [HEAD]
    for title, members in (("Functions", functions), ("Classes", classes), ("Errors", errors)):
        links = ", ".join(f"[`{name}`](#strata{name.lower()})" for name in members)
        lines += [textwrap.fill(f"{title}: {links}.", 120, break_on_hyphens=False, break_long_words=False), ""]
    for name in functions:
        lines += [f"## `strata.{name}`", "", *function(definition(objects[name]), f"strata.{name}")]
    for name in classes:
        lines += [f"## `strata.{name}`", "", *of_class(objects[name], name)]
    for name in errors:
        lines += [f"## `strata.{name}`", "", *text(ast.get_docstring(definition(objects[name])))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, *aliases()])).rstrip()


def face() -> list[str]:
    """The names of the face, in the order of its file."""
    tree = ast.parse((ROOT / "strata_sae/__init__.pyi").read_text(encoding="utf-8"))
    return [one.asname or one.name for node in tree.body if isinstance(node, ast.ImportFrom) for one in node.names]


def definition(what: type | FunctionType) -> Definition:
    """The source of a class or function as a tree."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(what))).body
    assert isinstance(node, Definition)
    return node


def function(node: ast.stmt, called: str) -> Iterator[str]:
    """Signature and docstring."""
    assert isinstance(node, ast.FunctionDef)
    yield from ["```python", signature(node, called), "```", ""]
    given = node.args
    every = [*given.args, *given.kwonlyargs, *([given.kwarg] if given.kwarg else [])]
    yield from text(ast.get_docstring(node), [one.arg for one in every])


def signature(node: ast.FunctionDef, called: str) -> str:
    """As it is called: without self, on several lines where one is too short."""
    given = node.args
    arguments = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*[None] * (len(arguments) - len(given.defaults)), *given.defaults]
    parts = [argument(*one) for one in zip(arguments, defaults, strict=True)]
    if arguments and arguments[0].arg in ("self", "cls"):
        parts = parts[1:]
    if given.vararg:
        parts.append(f"*{ast.unparse(given.vararg)}")
    elif given.kwonlyargs:
        parts.append("*")
    parts += [argument(*one) for one in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        parts.append(f"**{ast.unparse(given.kwarg)}")
    returned = "" if node.returns is None or node.name == "__init__" else f" -> {spelt(node.returns)}"
    line = f"{called}({', '.join(parts)}){returned}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{called}(", *(f"    {part}," for part in parts), f"){returned}"])


def argument(one: ast.arg, default: ast.expr | None) -> str:
    """An argument with its type and default."""
    typed = one.arg if one.annotation is None else f"{one.arg}: {spelt(one.annotation)}"
    return typed if default is None else f"{typed} = {spelt(default)}"


def spelt(node: ast.expr) -> str:
    """An expression; a type that is written as a string, without its quotes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[A-Z]\w*", node.value):
        return node.value
    return ast.unparse(node).replace("'", '"')


def of_class(what: type, name: str) -> Iterator[str]:
    """What it is, how it is made if by users, its fields, properties and methods, inherited ones included."""
    members: dict[str, tuple[ast.stmt, str | None]] = {}
    on_the_face = {getattr(strata, other) for other in face()} - {what}
    for one in reversed(what.__mro__):
        if one.__module__.startswith("strata_sae.") and one not in on_the_face:
            members |= dict(_members(definition(one)))
    yield from text(ast.get_docstring(definition(what)))
    if parent := next((one.__name__ for one in what.__mro__[1:] if one.__name__ in face()), None):
        yield from [f"All that a [`{parent}`](#strata{parent.lower()}) has, and:", ""]
    if name in MADE_BY_USERS and "__init__" in members:
        yield from function(members["__init__"][0], f"strata.{name}")
    if hasattr(what, "model_fields"):
        yield from ["Its fields are the sections of a config file: [config.md](config.md).", ""]
        return
    fields = [row(key, node, said) for key, (node, said) in members.items() if _is_field(node)]
    if fields:
        yield from ["| | type | |", "|---|---|---|", *fields, ""]
    for key, (node, _) in members.items():
        if isinstance(node, ast.FunctionDef) and not _is_field(node) and key != "__init__":
            owner = name if _is_static(node) else _instance(name)
            yield from [f"### `{name}.{key}`", "", *function(node, f"{owner}.{key}")]


def _members(node: Definition) -> Iterator[tuple[str, tuple[ast.stmt, str | None]]]:
    """Public fields and methods of a class, each with what is said of it."""
    for one, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and not one.target.id.startswith("_"):
            says = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            yield one.target.id, (one, str(following.value.value) if says else None)
        elif isinstance(one, ast.FunctionDef) and (one.name == "__init__" or not one.name.startswith("_")):
            yield one.name, (one, ast.get_docstring(one))


def _is_field(node: ast.stmt) -> bool:
    """Whether it is read without being called."""
    if not isinstance(node, ast.FunctionDef):
        return True
    return any(ast.unparse(one) in ("property", "cached_property") for one in node.decorator_list)


def _is_static(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(one) in ("classmethod", "staticmethod") for one in node.decorator_list)


def _instance(name: str) -> str:
    """What an object of a class is called in signatures."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*", name)
    return words[-1].lower()


def row(key: str, node: ast.stmt, said: str | None) -> str:
    """A line of a table of fields."""
    typed = node.returns if isinstance(node, ast.FunctionDef) else getattr(node, "annotation", None)
    default = getattr(node, "value", None)
    shown = (spelt(typed) if typed else "") + (f" = {spelt(default)}" if default else "")
    cells = (f"`{key}`", f"`{shown}`" if shown else "", " ".join((said or "").split()))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def text(docstring: str | None, arguments: Collection[str] = ()) -> Iterator[str]:
    """A docstring as Markdown: what is said of arguments as a list, indented lines after an empty one as code."""
    lines = (docstring or "").splitlines()
    in_list, in_code = False, False
    for before, line in zip(["", *lines], lines, strict=False):
        if in_code and not line.startswith("    "):
            in_code = False
            yield "```"
        named = re.match(r"\s*(\w+(?:, \w+)*): (.*)", line)
        if line == "Args:":
            yield ""
            in_list = True
        elif named and set(named[1].split(", ")) <= set(arguments):
            yield from ([] if in_list else [""])
            in_list = True
            yield f"- {', '.join(f'`{name}`' for name in named[1].split(', '))}: {named[2]}"
        elif re.match(r"(Returns|Raises|Shapes|Source): ", line):
            in_list = False
            yield from ["", line]
        elif in_list and line.startswith(" "):
            yield f"  {line.strip()}"
        elif line.startswith("    ") and (in_code or not before.strip()):
            yield from ([] if in_code else ["```python"])
            in_code = True
            yield line[4:]
        else:
            in_list = False
            yield line.strip()
    yield from ["```", ""] if in_code else [""]


def aliases() -> Iterator[str]:
    """The names of types in the signatures."""
    yield from ["## Types in signatures", "", "| | is | |", "|---|---|---|"]
    for name, path in ALIASES.items():
        body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(target, ast.Name) and target.id == name and isinstance(node, ast.Assign | ast.AnnAssign):
                says = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                said = str(following.value.value) if says else ""
                cells = (f"`{name}`", f"`{spelt(node.value)}`" if node.value else "", " ".join(said.split()))
                yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page() + "\n", encoding="utf-8")
