"""Reading recipes: files, the bases that they name, and overrides."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from neumeta_cli.documents import quoted, read_yaml
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import KINDS
from neumeta_cli.recipe.recipe import Recipe
from neumeta_cli.shipped import base_file, is_file_name, recipe_files

OWN = ("name", "description")  # what a recipe says of itself alone
BASE = (
    "another recipe, by name or as a file relative to this one, whose fields hold where this file "
    "says nothing"
)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or path and apply ``section.field=value`` overrides.

    A file may name a ``base``, another recipe. Mappings of the two are merged, at all depths;
    lists and single values replace the base's, and so does a section of another ``kind``, whole.
    The name and the description are not inherited.

    Raises:
        NeumetaError: no such recipe or base, bases in a circle, a field that does not exist, or a
            value that it refuses.

    """
    path = _find(name)
    files = _with_bases(path)
    content = _composed(files)
    asked: dict[str, Any] = {}
    override_all(content, overrides)
    override_all(asked, overrides)

    def source(where: Sequence[int | str]) -> str:
        said_in = (file for file, said in [(path, asked), *files] if _says(said, where))
        return str(next(said_in, path))

    recipe = _validated(content, source)
    if recipe.model.checkpoint is not None:  # an override's, which is relative to the file too
        model = recipe.model.model_copy(
            update={"checkpoint": _beside(path, recipe.model.checkpoint)}
        )
        recipe = recipe.model_copy(update={"model": model})
    return recipe


def over_base(own: Mapping[str, Any], source: str) -> Recipe:
    """The recipe of a file that says this, its ``base`` one that comes with neumeta.

    Raises:
        NeumetaError: see ``parse_recipe``.

    """
    path = base_file(str(own["base"]), Path())
    assert path is not None
    said = {key: value for key, value in own.items() if key != "base"}
    return parse_recipe(_derived(_composed(_with_bases(path)), said), source)


def override_all(content: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put ``section.field=value`` overrides in place of what a recipe's file says.

    Raises:
        NeumetaError: one of them is not written so, or names no field.

    """
    for override in sorted(overrides, key=_not_of_kind):
        _override(content, override)


def parse_recipe(content: dict[str, Any], source: str) -> Recipe:
    """Validate a recipe.

    Raises:
        NeumetaError: names the first wrong field, what was given and what is allowed.

    """
    return _validated(content, lambda _: source)


def changed(recipe: Recipe, *changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some fields changed, later changes winning.

    Args:
        recipe: stays as it is.
        changes: fields by section; a section of another ``kind`` is replaced whole.

    Raises:
        NeumetaError: see ``parse_recipe``.

    """
    content = recipe.model_dump(mode="json")
    own = {name: content[name] for name in OWN}
    for change in changes:
        content = own | _derived(content, dict(change))
    return parse_recipe(content, recipe.name)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe's file; where it names a base, that may say the rest."""
    schema = Recipe.model_json_schema()
    schema["properties"] = {"base": {"type": "string", "description": BASE}} | schema["properties"]
    schema["required"] = ["name"]
    for section in schema["$defs"].values():
        section.pop("required", None)
    return schema


def field_paths(section: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, str]:
    """Every field of the schema as ``section.field``, with its description."""
    paths: dict[str, str] = {}
    for name, info in section.model_fields.items():
        kind = info.annotation
        if name == "inr":  # of whichever kind
            for inr in KINDS.values():
                paths |= field_paths(inr.settings_type, f"{prefix}{name}.")
            kinds = (f"{k} ({inr.settings_type.summary})" for k, inr in KINDS.items())
            paths[f"{prefix}{name}.kind"] = ", ".join(kinds)
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            paths |= field_paths(kind, f"{prefix}{name}.")
        else:
            paths[prefix + name] = info.description or ""
    return paths


def unknown_field(path: str) -> str:
    """Say that a field does not exist, and which ones come close."""
    paths = list(field_paths())
    close = difflib.get_close_matches(path, paths, n=2) or [
        p for p in paths if p.rpartition(".")[2] == path.rpartition(".")[2]
    ]
    hint = f"; did you mean {' or '.join(close)}?" if close else "; see: neumeta recipes show"
    return f"no field {path!r}{hint}"


def _find(name: str) -> Path:
    """The file of a recipe that is to be run."""
    if is_file_name(name):
        path = Path(name)
        if not _is_there(path):
            raise NeumetaError(f"no such recipe file: {path}")
        return path
    files = recipe_files()
    if name not in files:
        close = difflib.get_close_matches(name, files, n=3) or sorted(files)
        raise NeumetaError(
            f"no recipe {name!r}; did you mean {', '.join(close)}? See: neumeta recipes list"
        )
    return files[name]


def _with_bases(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The files that make up a recipe and what they say, the recipe's own first."""
    files: list[tuple[Path, dict[str, Any]]] = []
    following: Path | None = path
    while following is not None:
        said = _read(following)
        base = said.pop("base", None)
        files.append((following, said))
        following = None if base is None else _base_of(following, base, [f for f, _ in files])
    return files


def _composed(files: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """What a recipe and its bases say together."""
    content: dict[str, Any] = {}
    for _, said in reversed(files):  # the last base first
        content = _derived(content, said)
    return content


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NeumetaError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise NeumetaError(f"{path} is not a recipe: it should map sections to fields")
    model = content.get("model")
    if isinstance(model, dict) and isinstance(model.get("checkpoint"), str):
        model["checkpoint"] = _beside(path, model["checkpoint"])
    return content


def _base_of(path: Path, base: object, before: Sequence[Path]) -> Path:
    """The file that ``path`` names as its base; ``before`` are those that led there."""
    if not isinstance(base, str):
        raise NeumetaError(f"{path}: base: name one recipe or its file, not {quoted(base)}")
    found = base_file(base, path)
    if found is None or not _is_there(found):
        missing = "no such file" if is_file_name(base) else "no such recipe"
        raise NeumetaError(
            f"{path}: base: {base}: {missing}; name one of neumeta recipes list, or a file "
            "relative to this one"
        )
    if any(found.samefile(earlier) for earlier in before):
        circle = " → ".join(file.name for file in [*before, found])
        raise NeumetaError(f"{path}: base: {base}: goes round in a circle, {circle}; leave it out")
    return found


def _is_there(path: Path) -> bool:
    """Whether it is a file; one with a name that no file can have is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def _beside(path: Path, other: str) -> str:
    """A path that a file names, from where it lies; a link stays one, as its end may be unnamed."""
    return os.path.abspath(path.parent / other)


def _derived(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What a recipe says over what its base does; sections of another kind share no fields."""
    replaced = [s for s, fields in own.items() if _kind(fields) not in (None, _kind(base.get(s)))]
    return _merged({k: v for k, v in base.items() if k not in (*OWN, *replaced)}, own)


def _kind(section: object) -> object:
    return section.get("kind") if isinstance(section, dict) else None


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    result = base | own
    for key, value in own.items():
        under = base.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            result[key] = _merged(under, value)
    return result


def _says(content: Any, where: Sequence[int | str]) -> bool:
    """Whether a file has a field, or the list that it is in."""
    for part in where:
        if not isinstance(content, dict):
            break
        if part not in content:
            return False
        content = content[part]
    return bool(where)


def _validated(content: dict[str, Any], source: Callable[[Sequence[int | str]], str]) -> Recipe:
    """The recipe; ``source`` tells which file says a field."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        lacking = first["type"] == "missing"
        file = source(() if lacking else first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        if not where:  # of fields that do not go together; it names them
            raise NeumetaError(f"{file}: {problem}") from error
        if first["type"] == "extra_forbidden":
            raise NeumetaError(f"{file}: {unknown_field(where)}") from error
        given = "" if lacking else f", not {quoted(first['input'])}"
        raise NeumetaError(f"{file}: {where}: {problem}{given}") from error


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise NeumetaError(f"--set {override}: write it as section.field=value")
    if key not in field_paths():
        raise NeumetaError(f"--set {override}: {unknown_field(key)}")
    *sections, last = key.split(".")
    for section in sections:
        content[section] = {} if content.get(section) is None else content[section]
        content = content[section]
        if not isinstance(content, dict):
            raise NeumetaError(f"--set {override}: {section} is no section with fields")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise NeumetaError(f"--set {override}: {text!r} is no value") from error
    if last == "kind" and value != _kind(content):
        content.clear()  # sections of another kind share no fields
    content[last] = value


def _not_of_kind(override: str) -> bool:
    """Sorts overrides of a section's kind before those of its fields."""
    return not override.partition("=")[0].endswith(".kind")
