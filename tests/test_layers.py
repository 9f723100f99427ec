"""The package reads like its data flow: a stage imports only from stages to its left."""

import ast
from pathlib import Path

import neumeta_cli
from neumeta_cli.compare.compare import CODE

ORDER = [
    "errors",
    "cache",
    "seeding",
    "choices",
    "settings",
    "runs",
    "shipped",
    "signatures",
    "hardware",
    "kernels",
    "reporting",
    "zoo",
    "checkpoint",
    "trace",
    "permute",
    "resize",
    "manifold",
    "tasks",
    "training",
    "distill",
    "recipe",
    "evaluate",
    "export",
    "pipeline",
    "compare",
    "cli",
]


PACKAGE = Path(neumeta_cli.__file__).parent
EXAMPLES = PACKAGE.parent / "examples"


def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def modules_of(path: Path) -> set[str]:
    """The dotted names of all modules that a file imports, or imports something from."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def imports_of(path: Path) -> set[str]:
    """The stages that a file imports from."""
    found = {m.split(".")[1] for m in modules_of(path) if m.startswith("neumeta_cli.")}
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module == "neumeta_cli":
            found |= {alias.name for alias in node.names}
    return found


def files_behind(path: Path) -> set[str]:
    """All files of the package that a file imports, and that these import."""
    found, waiting = set(), {path}
    while waiting:
        reading = waiting.pop()
        found.add(reading)
        named = {m for m in modules_of(reading) if m.startswith("neumeta_cli.")}
        for module in named | {f"neumeta_cli.{stage}" for stage in imports_of(reading)}:
            place = PACKAGE.joinpath(*module.split(".")[1:])
            file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            waiting |= {file} - found
    return {file.relative_to(PACKAGE).as_posix() for file in found}


def test_a_stage_imports_only_from_its_left() -> None:
    package = Path(neumeta_cli.__file__).parent
    wrong = []
    for path in package.rglob("*.py"):
        stage = path.relative_to(package).with_suffix("").parts[0]
        if stage in ("__init__", "__main__"):
            continue
        later = set(ORDER[ORDER.index(stage) + 1 :])
        wrong += [f"{path.name} imports {name}" for name in imports_of(path) & later]
    assert not wrong


def test_files_stay_readable() -> None:
    package = Path(neumeta_cli.__file__).parent
    long = [p.name for p in package.rglob("*.py") if len(p.read_text("utf-8").splitlines()) > 400]
    assert not long


def test_faces_only_re_export() -> None:
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    acting = {
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in PACKAGE.rglob("__init__.py")
        for node in nodes_of(path)
        if isinstance(node, defining)
    }
    assert acting == {"__init__.py: __getattr__", "__init__.py: __dir__"}  # as PEP 562 has them


def test_no_inner_module_imports_from_its_own_face() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        face = ".".join(("neumeta_cli", *path.relative_to(PACKAGE).parent.parts))
        if path.name != "__init__.py" and path.parent != PACKAGE and face in modules_of(path):
            wrong.append(str(path.relative_to(PACKAGE)))
    assert not wrong


def test_examples_import_nothing_but_the_face() -> None:
    inner = {
        f"{path.name} imports {module}"
        for path in EXAMPLES.glob("*.py")
        for module in modules_of(path)
        if module.startswith("neumeta_cli.")
    }
    assert not inner


def test_the_face_offers_what_its_types_say() -> None:
    face = PACKAGE / "__init__.py"
    typed = {
        alias.asname or alias.name: f"{node.module.removeprefix('neumeta_cli.')}:{alias.name}"
        for node in nodes_of(face)
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.startswith("neumeta_cli.")
        for alias in node.names
    }
    assert typed == neumeta_cli.HOMES
    assert set(neumeta_cli.__all__) == set(typed)
    for name in neumeta_cli.__all__:
        assert getattr(neumeta_cli, name) is not None
    assert (PACKAGE / "py.typed").exists()


def test_a_comparison_runs_again_when_code_that_it_depends_on_has_changed() -> None:
    """Whatever it imports is in the digest, but for what changes no figure."""
    assert all((PACKAGE / part).exists() for part in CODE)
    behind = files_behind(PACKAGE / "compare" / "compare.py")
    parts = tuple(part if part.endswith(".py") else f"{part}/" for part in CODE)
    assert {file for file in behind if not file.startswith(parts)} == {
        *("compare/__init__.py", "evaluate/__init__.py"),  # faces
        *("evaluate/latency.py", "evaluate/plots.py"),  # shown beside results
        *("cache.py", "choices.py", "errors.py", "hardware.py", "reporting.py"),
        *("runs.py", "shipped.py", "signatures.py"),
    }
