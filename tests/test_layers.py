"""The package reads like its data flow: a stage imports only from stages to its left."""

import ast
import importlib
from pathlib import Path

import neumeta_cli
from neumeta_cli.compare.compare import CODE

ORDER = [
    "errors",
    "documents",
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
    "data",
    "tasks",
    "training",
    "distill",
    "recipe",
    "evaluate",
    "export",
    "measuring",
    "pipeline",
    "direct",
    "compare",
    "cli",
]


PACKAGE = Path(neumeta_cli.__file__).parent
EXAMPLES = PACKAGE.parent / "examples"


DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
WHOLE = PACKAGE / "trace" / "rules" / "__init__.py"  # rules enter the table as they are imported


def faces() -> list[Path]:
    """The stubs that say what the faces offer."""
    return [path.with_suffix(".pyi") for path in PACKAGE.rglob("__init__.py") if path != WHOLE]


def package_of(path: Path) -> str:
    return ".".join((PACKAGE.name, *path.relative_to(PACKAGE).parent.parts))


def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def modules_of(path: Path) -> set[str]:
    """The dotted names of all modules that a file imports, or imports something from."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(f"{package_of(path)}.{node.module}" if node.level else node.module)
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
            files = {place.with_suffix(".py")}
            if place.is_dir():
                files = {f for f in (place / "__init__.py", place / "__init__.pyi") if f.exists()}
            waiting |= files - found
    return {file.relative_to(PACKAGE).as_posix() for file in found}


def test_a_stage_imports_only_from_its_left() -> None:
    package = Path(neumeta_cli.__file__).parent
    wrong = []
    for path in (*package.rglob("*.py"), *faces()):
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
    lazy = "__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)"
    allowed = ["import lazy_loader", ast.unparse(ast.parse(lazy))]
    for stub in faces():
        _, *done = map(ast.unparse, ast.parse(stub.with_suffix(".py").read_text()).body)
        if stub.parent == PACKAGE:
            done = [line for line in done if not line.startswith("__version__ = ")]
        assert done == allowed, stub
    assert not [node for node in nodes_of(WHOLE) if isinstance(node, DEFINING)]


def test_every_name_of_every_face_can_be_got() -> None:
    assert (PACKAGE / "py.typed").exists()
    for stub in faces():
        face = importlib.import_module(package_of(stub))
        imports = [node for node in nodes_of(stub) if isinstance(node, ast.ImportFrom)]
        assert {node.level for node in imports} == {1}, stub  # what lazy_loader reads
        offered = {alias.name: alias.asname for node in imports for alias in node.names}
        assert list(offered.values()) == list(offered), stub  # or mypy takes them for private
        assert sorted(offered) == sorted(face.__all__) == sorted(dir(face)), stub
        for node in imports:
            home = importlib.import_module(f"{face.__name__}.{node.module}")
            for alias in node.names:
                assert getattr(face, alias.name) is getattr(home, alias.name)
        files = {path.stem for path in stub.parent.iterdir()}
        assert not files & offered.keys(), "a file that is imported would take the name's place"


def test_no_inner_module_imports_from_its_own_face() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        inner = path.name != "__init__.py" and path.parent != PACKAGE
        if inner and package_of(path) in modules_of(path):
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


def test_a_comparison_runs_again_when_code_that_it_depends_on_has_changed() -> None:
    """Whatever it imports is in the digest, but for what changes no figure."""
    assert all((PACKAGE / part).exists() for part in CODE)
    behind = files_behind(PACKAGE / "compare" / "compare.py")
    parts = tuple(part if part.endswith(".py") else f"{part}/" for part in CODE)
    assert {file for file in behind if not file.startswith(parts)} == {
        *("compare/__init__.py", "evaluate/__init__.py"),  # faces
        *("compare/__init__.pyi", "evaluate/__init__.pyi"),
        *("evaluate/channels.py", "evaluate/graph.py"),  # beside results
        *("evaluate/latency.py", "evaluate/plots.py"),
        *("cache.py", "choices.py", "errors.py", "hardware.py", "reporting.py"),
        *("runs.py", "shipped.py", "signatures.py"),
    }
