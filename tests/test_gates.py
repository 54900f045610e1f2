"""What must not be in the source, wherever it is added: code from files, absolute paths, long files, cycles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "counterpoint"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
HOUSE = (
    "allocation",
    "distributed",
    "sharded",
    "batch_norm",
    "storage",
    "sealing",
    "construction",
    "geometry gaussians",
    "losses",
    "memory",
    "data",
    "views",
    "encoders",
    "stage",
    "system",
    "enhancement",
    "systems",
    "tasks",
    "run fitted",
    "recipes",
    "evaluation",
    "training",
    "index",
    "predict",
    "export",
    "reporting",
    "claims",
    "quickstart",
    "command",
    "cli",
)
"""A part imports what stands before it or beside it."""
LEVELS = {name: level for level, names in enumerate(HOUSE) for name in names.split()}


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


FORBIDDEN_CALLS = re.compile(
    r"(^|\.)(pickle|cPickle|dill|cloudpickle|joblib|marshal|shelve)\.\w+$"
    r"|^(eval|exec|compile|__import__)$|^torch\.(load|hub\.\w+)$|^yaml\.(load|unsafe_load|full_load|load_all)$"
    r"|\.(extractall|extract)$|^os\.system$|^(np|numpy)\.load$"
)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_code_comes_from_files(path: Path) -> None:
    """Nothing is unpickled, evaluated or unpacked; `trust_remote_code` is only ever switched off."""
    for name, call in _calls(path):
        assert not FORBIDDEN_CALLS.search(name), f"{_name(path)}:{call.lineno} calls {name}"
        for keyword in call.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            where = f"{_name(path)}:{call.lineno}"
            assert not (keyword.arg == "shell" and value), f"{where} starts a shell"
            assert not (keyword.arg == "trust_remote_code" and value), f"{where} trusts remote code"
            assert not (keyword.arg == "weights_only" and value is False), f"{where} unpickles"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.partition(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib", "marshal"}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_absolute_paths(path: Path) -> None:
    """No path of somebody's machine is in the source; /usr/share is where system packages put data on every one."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.search(r"(?<![\w.~}/:])/(home|root|tmp|work|Users|usr(?!/share/)|opt|mnt|data)/\w", node.value)
            assert not found, f"{_name(path)}:{node.lineno} holds the path {node.value[:80]!r}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_and_functions_are_short(path: Path) -> None:
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST_FILE, f"{_name(path)} has {length} lines, the limit is {LONGEST_FILE}"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
            lines = _lines(node) - (_lines(node.body[0]) if documented else 0)
            assert lines <= LONGEST_FUNCTION, (
                f"{_name(path)}:{node.lineno} {node.name} has {lines} lines without its docstring, "
                f"the limit is {LONGEST_FUNCTION}"
            )


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_everything_public_is_documented_and_typed(path: Path) -> None:
    tree = _tree(path)
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), f"{_name(path)} has no docstring"
    for owner in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        for node in owner.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            hidden = isinstance(owner, ast.ClassDef) and (owner.name.startswith("_") or _documents(owner, node.name))
            where = f"{_name(path)}:{node.lineno} {node.name}"
            assert hidden or ast.get_docstring(node), f"{where} has no docstring"
            if isinstance(node, ast.FunctionDef):
                assert node.returns is not None, f"{where} does not say what it returns"


@cache
def _interface() -> frozenset[str]:
    """Methods that `System`, `Estimator` and `Protocol` document for everything that defines them anew."""
    methods = set()
    for path in (SOURCE / "system.py", SOURCE / "evaluation" / "protocol.py"):
        for owner in _tree(path).body:
            if isinstance(owner, ast.ClassDef):
                methods |= {node.name for node in owner.body if isinstance(node, ast.FunctionDef)}
    return frozenset(methods)


def _documents(owner: ast.ClassDef, method: str) -> bool:
    """Whether a base class of ours says what a method is for."""
    ours = any(ast.unparse(base) not in ("nn.Module", "System", "Estimator", "Protocol") for base in owner.bases)
    return ours or (bool(owner.bases) and method in _interface())


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of ours that a file imports, wherever in the file; those for type checkers only are left out."""
    tree = _tree(path)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno} imports relatively"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                is_module = (SOURCE.parent / full.replace(".", "/")).with_suffix(".py").is_file()
                is_package = (SOURCE.parent / full.replace(".", "/")).is_dir()
                yield (full if is_module or is_package else module), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_part_imports_only_what_stands_above_it(path: Path) -> None:
    """The order of the house; two systems never import each other."""
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    assert own in LEVELS, f"{own} has no place in the house: give it one in HOUSE and in docs/decisions.md"
    for module, line in _imports(path):
        parts = module.split(".")
        if parts[0] != "counterpoint" or len(parts) < 2:
            continue
        other = parts[1]
        where = f"{_name(path)}:{line} imports {module}"
        assert LEVELS[other] <= LEVELS[own], f"{where}, which stands below {own}"
        if own == other == "systems":
            assert len(parts) < 3 or parts[2] == path.stem, f"{where}: what two systems share moves up"


def test_only_two_files_talk_to_torch_distributed() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if path.name not in ("distributed.py", "sharded.py"):
            assert "torch.distributed" not in re.sub(r'""".*?"""|#.*', "", text, flags=re.DOTALL), _name(path)


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").is_file()
