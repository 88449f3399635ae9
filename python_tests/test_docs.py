"""Every public name is documented with shapes, and every example in a docstring and the README runs."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import nnart_ops
import nnart_ops.nn.convert
from benchmarks import memory, pages, tables

PUBLIC = {
    **{f"functional.{name}": getattr(nnart_ops.functional, name) for name in nnart_ops.functional.__all__},
    **{f"nn.{name}": getattr(nnart_ops.nn, name) for name in nnart_ops.nn.__all__},
    **{f"optim.{name}": getattr(nnart_ops.optim, name) for name in nnart_ops.optim.__all__},
    "build_info": nnart_ops.build_info,
    "config": nnart_ops.config,
    "explain": nnart_ops.explain,
    "recompute_activations": nnart_ops.recompute_activations,
}
README = Path(__file__).parent.parent / "README.md"


def run_examples(name: str, text: str) -> doctest.TestResults:
    test = doctest.DocTestParser().get_doctest(
        text, {"torch": torch, "nnart_ops": nnart_ops}, name, filename=None, lineno=None
    )
    return doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_docstring(name: str) -> None:
    documented: Any = PUBLIC[name]
    text = documented.__doc__ or ""
    own = not any(text == (base.__doc__ or "") for base in getattr(documented, "__mro__", ())[1:])
    assert own, f"{name} has no docstring of its own"
    assert re.search(r"[Ss]hapes?\b", text), f"{name}'s docstring gives no shapes"
    if inspect.isfunction(documented):
        assert ">>>" in text, f"{name}'s docstring has no example"
    assert run_examples(name, text).failed == 0


@pytest.mark.parametrize("page", [README, *memory.DOCUMENTS], ids=lambda page: page.name)
def test_examples_in_pages(page: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks, f"{page.name} shows no Python"
    for block in blocks:
        exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize("name", tables.TABLES)
def test_tables_of_readme_are_of_the_results(name: str) -> None:
    assert pages.table_in(README, name) == str(tables.TABLES[name])


@pytest.mark.parametrize("name", memory.TABLES)
def test_memory_tables_are_what_is_measured(name: str) -> None:
    measured = memory.table(name)
    assert f"<!-- {name} -->\n{measured}\n" in memory.document_of(name).read_text(), f"measured now:\n{measured}"


def test_every_layer_is_exported() -> None:
    for name in nnart_ops.nn.__all__:
        assert getattr(nnart_ops, name) is getattr(nnart_ops.nn, name)
        assert isinstance(nnart_ops, ModuleType)
