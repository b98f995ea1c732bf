"""Every kind of step has an executor, and no executor asks for a field that its step does not have."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import get_args

import pytest

from mesocosm.launch import child, entry, filesystems, identity, limits, owners, roots, setup
from mesocosm.plan.operations import Operation, Step

KINDS: dict[str, type[Operation]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Step)}
MODULES: tuple[ModuleType, ...] = (child, entry, filesystems, identity, limits, owners, roots, setup)


def test_the_table_is_exactly_the_plans_kinds() -> None:
    assert set(child.EXECUTORS) == set(KINDS)


def _functions() -> dict[str, ast.FunctionDef]:
    found = {}
    for module in MODULES:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.FunctionDef):
                found[node.name] = node
    return found


FUNCTIONS = _functions()


def _fields(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Constants that ``step`` is subscripted with, in a function and in those that it hands ``step`` to."""
    if name in seen or name not in FUNCTIONS:
        return set()
    fields = set()
    for node in ast.walk(FUNCTIONS[name]):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "step":
            if isinstance(node.slice, ast.Constant):
                fields.add(str(node.slice.value))
        elif isinstance(node, ast.Call):
            handed = [argument.id for argument in node.args if isinstance(argument, ast.Name)]
            if "step" in handed:
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                fields |= _fields(called, seen | {name})
    return fields


@pytest.mark.parametrize("op", sorted(KINDS))
def test_an_executor_uses_only_its_steps_fields(op: str) -> None:
    used = _fields(child.EXECUTORS[op].__name__)
    assert used <= set(KINDS[op].__struct_fields__)


def test_the_reading_of_sources_sees_something() -> None:
    assert _fields("mount_filesystem") >= {"fstype", "target", "options"}
    assert _fields("host_root") >= {"hidden", "submounts"}
