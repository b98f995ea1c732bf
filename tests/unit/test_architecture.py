"""The picture in docs/architecture.md, checked against the code.

Imports point one way; the launch side stays within a short list of modules; functions, files and names keep
to the rules.  An exception stands in a table here, with its reason.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
PACKAGE = SRC / "mesocosm"


class Tier(NamedTuple):
    """Parts that stand on the same level; a part may import from lower levels only, or from itself."""

    parts: tuple[str, ...]
    strangers: bool = False
    """Whether the parts of this level must not know each other."""


CONTAINERIZER_PARTS = ("conclusion", "engine", "setup", "teardown", "guard", "session")
PREPARING_PARTS = ("host_steps", "image_volumes")
ROOT_READING_PARTS = ("pause", "container_root", "root_files")
REPORTING_PARTS = ("explanation", "looking", "reports", "logs", "scripting", "doctor")

TIERS = (
    Tier(("errors", "trace", "version")),
    Tier(("model",)),
    Tier(("lifecycle", "paths", "plan"), strangers=True),
    Tier(("linux", "durable")),
    Tier(("records",)),
    Tier(("isolators", "images", "launch"), strangers=True),
    Tier(
        (
            "containerizer",
            "recovery",
            *CONTAINERIZER_PARTS,
            *PREPARING_PARTS,
            *ROOT_READING_PARTS,
            *REPORTING_PARTS,
        )
    ),
    Tier(("agent",)),
    Tier(("frontends",)),
)
"""From the bottom up.  The package's own ``__init__`` is above all."""

LAUNCH_SIDE = ("zygote", "supervisor", "child")
LAUNCH_IMPORTS = (
    "os, sys, ctypes, json, socket, select, struct, errno, signal, fcntl, time, stat, resource, array"
)
LAUNCH_IMPORTS += ", gc, binascii, __future__"
"""What the launch side may import by name; what these import themselves is measured, not listed."""

FUNCTION_LINES = 60
FILE_LINES = 400
LONG_FUNCTIONS: dict[str, str] = {}
"""``path:function`` → why it is longer than ``FUNCTION_LINES`` (docstring and signature not counted)."""
LONG_FILES: dict[str, str] = {
    "linux/syscall_table.py": "a table: one line per system call",
    "linux/syscalls.py": "a table: one function per system call, three lines each",
    "plan/operations.py": "a table: one class per operation, with its schema and its description",
}
"""``path`` → why it is longer than ``FILE_LINES``."""

BANNED_WORDS = {"util", "utils", "helper", "helpers", "manager", "misc", "impl", "slave", "shim"}
BANNED_WORDS |= {"plugin", "plugins", "handler", "handlers"}
"""Words that name nothing, or that this project has another word for (design: words)."""

# Written in pieces, so that this file does not find itself.
WORKPLACE = re.compile(
    "|".join((r"/wor" + r"k/(main|shared|\.library)", "helper" + r"[ -]session", r"\bissue" + r" #?\d"))
)


class Module(NamedTuple):
    """One source file."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @property
    def short(self) -> str:
        """Its path below the package."""
        return str(self.path.relative_to(PACKAGE))

    @property
    def part(self) -> str:
        """The module or package directly below ``mesocosm``; empty for its ``__init__``."""
        return (self.name.split(".") + [""])[1]


@cache
def modules() -> dict[str, Module]:
    """Every module of the package, by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        found[name] = Module(path, name, text, ast.parse(text, str(path)))
    return found


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Every import of a module of ours, wherever in the file it stands: line and dotted name."""
    package = module.path.name == "__init__.py"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mesocosm":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.name.split(".")
                keep = len(parents) - node.level + package
                base = ".".join([*parents[:keep], *([base] if base else [])])
            if base.split(".")[0] == "mesocosm":
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield node.lineno, full if full in modules() else base


def level(part: str) -> int:
    """The level of a part; above all for the package itself."""
    if not part:
        return len(TIERS)
    for number, tier in enumerate(TIERS):
        if part in tier.parts:
            return number
    pytest.fail(f"src/mesocosm/{part} has no place in TIERS: say where it stands")


def wrong_directions(module: Module) -> Iterator[str]:
    """Imports from a level above, or from a stranger on the same level."""
    own = level(module.part)
    for line, name in imports(module):
        part = (name.split(".") + [""])[1]
        if part == module.part or (not part and own < len(TIERS) and _only_version(module, line)):
            continue
        other = level(part)
        if other > own or (other == own and own < len(TIERS) and TIERS[own].strangers):
            yield f"{module.short}:{line} imports {name}"


def _only_version(module: Module, line: int) -> bool:
    return "import __version__" in module.text.splitlines()[line - 1]


def test_imports_point_one_way() -> None:
    assert [wrong for module in modules().values() for wrong in wrong_directions(module)] == []


def test_model_does_no_io_and_knows_only_errors() -> None:
    wrong = []
    for module in modules().values():
        if module.part == "model":
            outside = {"socket", "subprocess", "pathlib", "asyncio"} & standard_imports(module)
            ours = {
                name
                for _, name in imports(module)
                if not name.startswith(("mesocosm.model", "mesocosm.errors"))
            }
            wrong += [f"{module.short} imports {name}" for name in sorted(outside | ours)]
    assert wrong == []


def standard_imports(module: Module) -> set[str]:
    """First names of all absolute imports that are not ours."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - {"mesocosm"}


def isolator_modules() -> set[str]:
    """Modules below ``isolators/`` that define an isolator."""
    found = set()
    for module in modules().values():
        if module.name.startswith("mesocosm.isolators.") and module.name != "mesocosm.isolators.base":
            for node in module.tree.body:
                if isinstance(node, ast.ClassDef) and any(
                    isinstance(base, ast.Name) and base.id.endswith("Isolator") for base in node.bases
                ):
                    found.add(module.name)
    return found


def test_isolators_do_not_know_each_other() -> None:
    isolators = isolator_modules()
    wrong = [
        f"{modules()[name].short}:{line} imports {other}"
        for name in sorted(isolators)
        for line, other in imports(modules()[name])
        if other in isolators
    ]
    assert wrong == []


def test_stores_and_backends_do_not_know_each_other() -> None:
    wrong = [
        f"{module.short}:{line} imports {other}"
        for module in modules().values()
        for line, other in imports(module)
        for one, two in (("stores", "backends"), ("backends", "stores"))
        if module.name.startswith(f"mesocosm.images.{one}.") and other.startswith(f"mesocosm.images.{two}")
    ]
    assert wrong == []


def loaded_by(statements: str) -> list[str]:
    """What a bare interpreter has in ``sys.modules`` after these statements and had not before."""
    program = f"import sys; before = set(sys.modules); sys.path.insert(0, {str(SRC)!r}); {statements}\n"
    program += "print(*sorted(set(sys.modules) - before), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "name", [name for name in LAUNCH_SIDE if (PACKAGE / "launch" / f"{name}.py").exists()]
)
def test_launch_side_imports_only_cheap_modules(name: str) -> None:
    """Import time is container start time, and what is loaded is paid in the memory of every supervisor."""
    cheap = set(loaded_by(f"import {LAUNCH_IMPORTS}"))
    loaded = loaded_by(f"import mesocosm.launch.{name}")
    foreign = [module for module in loaded if module not in cheap and module.split(".")[0] != "mesocosm"]
    assert foreign == [], f"mesocosm.launch.{name} loads modules that the launch side must not pay for"
    above = [
        module
        for module in loaded
        if module.startswith("mesocosm.") and level(module.split(".")[1]) > level("launch")
    ]
    assert above == []


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method with its qualified name."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + child.name, child
                yield from walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(module.tree, "")


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_say_one_thing() -> None:
    long = {
        f"{module.short}:{name}": lines
        for module in modules().values()
        for name, function in functions(module)
        if (lines := body_lines(function)) > FUNCTION_LINES
    }
    assert {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) - set(long) == set(), "exceptions that are not needed any more"


def test_files_hold_one_noun() -> None:
    lines = {module.short: len(module.text.splitlines()) for module in modules().values()}
    assert {name: n for name, n in lines.items() if n > FILE_LINES and name not in LONG_FILES} == {}


def words(name: str) -> set[str]:
    """The words of an identifier in snake or camel case, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_names_say_something() -> None:
    found = []
    for module in modules().values():
        if words(module.name.rsplit(".", 1)[-1]) & BANNED_WORDS:
            found.append(module.short)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and words(node.name) & BANNED_WORDS:
                found.append(f"{module.short}:{node.lineno} class {node.name}")
    assert found == []


def test_no_assert_statement_in_the_product() -> None:
    """``python -O`` removes them, and an AssertionError tells a user nothing."""
    found = [
        f"{module.short}:{node.lineno}"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert)
    ]
    assert found == []


@cache
def documented_methods() -> dict[str, set[str]]:
    """Class name → methods that it or a class above it documents, by simple name."""
    bases: dict[str, list[str]] = {}
    own: dict[str, set[str]] = {}
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, []).extend(_simple_name(base) for base in node.bases)
                own.setdefault(node.name, set()).update(
                    item.name
                    for item in node.body
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(item)
                )

    def closure(name: str, seen: frozenset[str]) -> set[str]:
        above = [base for base in bases.get(name, []) if base not in seen]
        return own.get(name, set()).union(*(closure(base, seen | {name}) for base in above))

    return {name: closure(name, frozenset()) for name in own}


def _simple_name(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def undocumented(module: Module) -> Iterator[str]:
    """Public things without a docstring; a method may inherit its own from the interface it implements.

    Of a Protocol the class's docstring suffices: its methods are somebody else's, described together.
    """
    if module.text.strip() and not ast.get_docstring(module.tree):
        yield module.short
    for node in module.tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{module.short}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef) and "Protocol" not in map(_simple_name, node.bases):
            for item in node.body:
                if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) or item.name.startswith("_"):
                    continue
                if _needs_docstring(item) and item.name not in documented_methods()[node.name]:
                    yield f"{module.short}:{item.lineno} {node.name}.{item.name}"


def _needs_docstring(item: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    decorators = {_simple_name(decorator) for decorator in item.decorator_list}
    return not decorators & {"overload", "setter", "override"}


def test_everything_public_is_documented() -> None:
    assert [name for module in modules().values() for name in undocumented(module)] == []


def published_texts() -> Iterator[Path]:
    """Every text file that a reader of the repository meets."""
    for folder in ("src", "tests", "bench", "docs", "scripts", ".ci"):
        yield from (path for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    # In a second worktree .git is a file, which says where the first one is: it is of the machine.
    yield from (path for path in sorted(ROOT.iterdir()) if path.is_file() and path.name != ".git")


def test_nothing_tells_of_the_place_it_was_written_in() -> None:
    found = []
    for path in published_texts():
        if "__pycache__" in path.parts:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if WORKPLACE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []
