import sys

import pytest

from strata_sae.pipeline.config.corpus import PythonDocs
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import describe, python_docs, read_documents

SOURCE = PythonDocs(kind="python_docs")

MODULE = '''"""About the module."""
import this_is_never_imported
class Outer:
    """About Outer."""
    def method(self):
        """About method."""
    class Inner:
        async def run(self):
            """About run."""
if True:
    def conditional():
        """About conditional."""
def silent():
    return """not a docstring"""
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    for name in ("b/__init__.py", "a.py", "test/test_a.py", "b/tests/x.py", "site-packages/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(MODULE, encoding="utf-8")
    (tmp_path / "bare.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(python_docs.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def test_docstrings_come_in_source_order_under_their_names(library):
    text = python_docs.module_documentation("b/__init__.py", library / "b" / "__init__.py")
    names = ["b", "b.Outer", "b.Outer.method", "b.Outer.Inner.run", "b.conditional"]
    assert text.split("\n\n")[::2] == names
    assert text.split("\n\n")[1::2] == [
        f"About {name}." for name in ("the module", "Outer", "method", "run", "conditional")
    ]


def test_modules_are_sorted_and_tests_and_packages_are_skipped(library):
    documents = list(read_documents(SOURCE))
    modules = [document.place.where for document in documents if ".py" in document.place.where]
    assert modules == ["python_docs:a.py", "python_docs:b/__init__.py"]
    topics = [document.place.where.split("[")[1].rstrip("]") for document in documents[: -len(modules)]]
    assert topics == sorted(topics)
    assert len(topics) > 50


def test_a_python_without_topics_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ConfigError, match=r"lacks pydoc_data\.topics"):
        next(read_documents(SOURCE))


def test_this_python_has_enough_text_for_the_demo():
    # SmolLM2's tokenizer needs about 3.7 characters a token here; the demo needs 300,000 tokens.
    assert sum(len(document.text) for document in read_documents(SOURCE)) > 300_000 * 4


def test_provenance_names_the_python():
    assert describe(SOURCE, [])["python"] == ".".join(map(str, sys.version_info[:3]))
