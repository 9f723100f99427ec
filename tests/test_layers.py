"""The package reads like its data flow: a stage imports only from stages to its left."""

import ast
from pathlib import Path

import neumeta_cli

ORDER = [
    "errors",
    "cache",
    "seeding",
    "hardware",
    "kernels",
    "reporting",
    "sections",
    "recipe",
    "zoo",
    "checkpoint",
    "trace",
    "permute",
    "resize",
    "manifold",
    "tasks",
    "distill",
    "evaluate",
    "export",
    "pipeline",
    "comparing",
    "cli",
]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "neumeta_cli":
            if node.module.startswith("neumeta_cli."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "neumeta_cli":
            found |= {alias.name for alias in node.names}
    return found


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
