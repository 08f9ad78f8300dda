"""The stub of the Rust module has the names and parameters of the built module."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from qvec import _native

STUB = ast.parse(Path(_native.__file__).with_name("_native.pyi").read_text())
TYPES_ONLY = {"Vectors", "Codes", "Text"}


def functions(body: list[ast.stmt]) -> dict[str, list[str]]:
    """Parameter names of each function, without self and cls."""
    found = [statement for statement in body if isinstance(statement, ast.FunctionDef)]
    names = {function.name: [argument.arg for argument in function.args.args] for function in found}
    return {name: [each for each in arguments if each not in ("self", "cls")] for name, arguments in names.items()}


def names(body: list[ast.stmt]) -> set[str]:
    named = {statement.name for statement in body if isinstance(statement, ast.FunctionDef | ast.ClassDef)}
    targets = [statement.targets for statement in body if isinstance(statement, ast.Assign)]
    targets += [[statement.target] for statement in body if isinstance(statement, ast.AnnAssign)]
    return named | {target.id for each in targets for target in each if isinstance(target, ast.Name)}


def test_stub_has_names_of_module() -> None:
    built = {name for name in vars(_native) if not name.startswith("__")}
    assert names(STUB.body) - TYPES_ONLY == built


@pytest.mark.parametrize(("name", "parameters"), functions(STUB.body).items())
def test_function_parameters_match_stub(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(_native, name)).parameters) == parameters


def test_statistics_members_match_stub() -> None:
    (stub,) = (each for each in STUB.body if isinstance(each, ast.ClassDef) and each.name == "Statistics")
    built = {name for name in vars(_native.Statistics) if not name.startswith("__")}
    assert names(stub.body) - {"__new__"} == built
    for name in ("update", "merge"):
        parameters = list(inspect.signature(getattr(_native.Statistics, name)).parameters)
        assert parameters[1:] == functions(stub.body)[name]
