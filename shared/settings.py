"""Settings in three layers, TOML < environment < command line, with errors that name the key and its remedy.

A settings file is a tree of frozen pydantic models: the root derives from `Settings`, each table from `Section`. An
environment variable is the prefix, then the path with `__` between the parts, in any case: `EDGE_AGENT__BROKER__HOST`;
a whole table or a list is written as JSON, anything else as it is. A command line override is `path.to.key=value`, its
value read as TOML where that is possible, else as text. Why pydantic-settings does none of this: docs/adr/0010.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import SettingsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Section(BaseModel):
    """A table of a settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(Section):
    """Root of a settings file. Only `load` reads the environment; constructing one reads what it is given."""

    # With what the names of this root's environment variables begin.
    env_prefix: ClassVar[str]

    @classmethod
    def load(
        cls, path: Path | None, *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> Self:
        """Read a settings file and lay the environment and the overrides over it.

        Args:
            path: the TOML file; None: defaults, environment and overrides alone.
            overrides: `path.to.key=value`, the last one wins.
            environ: instead of the process's own environment.

        Raises:
            SettingsError: the file is missing or not TOML, a key is unknown, or a value is not possible.
        """
        environ = os.environ if environ is None else environ
        values = _read_toml(path) if path else {}
        values = _merged(values, _from_environment(cls, environ))
        values = _merged(values, _from_overrides(overrides))
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise SettingsError(_explain(cls, err, path)) from err


S = TypeVar("S", bound=BaseModel)
# A file that is none: standard input or output.
_NO_FILE = Path("-")


def relative_to(folder: Path, settings: S) -> S:
    """The same settings, every relative file name in them below `folder`; "-" stays what it is."""
    return settings.model_copy(update={name: _below(folder, value) for name, value in settings})


def _below(folder: Path, value: Any) -> Any:
    match value:
        case Path():
            return value if value == _NO_FILE else folder / value
        case BaseModel():
            return relative_to(folder, value)
        case tuple():
            return tuple(_below(folder, item) for item in value)
        case dict():
            return {key: _below(folder, item) for key, item in value.items()}
        case _:
            return value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, table by table."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return result


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise SettingsError(f"cannot read the settings file {path}: {err.strerror}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise SettingsError(f"{path} is not valid TOML: {err}") from err


def _from_environment(cls: type[Settings], environ: Mapping[str, str]) -> dict[str, Any]:
    prefix = cls.env_prefix.lower()
    ours = {name.lower(): text for name, text in environ.items() if name.lower().startswith(prefix)}
    values: dict[str, Any] = {}
    # A table comes before its own keys, which lie over it.
    for name in sorted(ours, key=lambda name: name.count("__")):
        keys = name.removeprefix(prefix).split("__")
        if keys[0] not in cls.model_fields:
            hint = _nearest(keys[0], cls.model_fields)
            raise SettingsError(f"environment variable {name.upper()}: unknown key {keys[0]!r}{hint}")
        try:
            value = _environment_value(ours[name], _type_at(cls, keys))
        except ValueError as err:
            said = f"environment variable {name.upper()}: {err}; a whole table is written as JSON, a list too"
            raise SettingsError(said) from err
        values = _merged(values, _nested(keys, value))
    return values


def _environment_value(text: str, annotation: Any) -> Any:
    """What a variable says: JSON where a table or a list is meant, else text, of which pydantic makes a number."""
    if not _is_structured(annotation):
        return text
    value = json.loads(text)
    return value if value is None or isinstance(value, dict | list) else text


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys[1:]):
        value = {key: value}
    return {keys[0]: value}


def _from_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise SettingsError(f"override {override!r} is not of the form path.to.key=value")
        values = _merged(values, _nested(path.strip().split("."), _toml_value(text.strip())))
    return values


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(cls: type[BaseModel], err: ValidationError, path: Path | None) -> str:
    source = str(path) if path else "settings"
    return f"{source}: " + "; ".join(explain_problem(cls, problem) for problem in err.errors())


def explain_problem(cls: type[BaseModel], problem: ErrorDetails) -> str:
    """What is wrong with one key of a model's input, in a user's words, with the remedy where there is one."""
    *where, key = problem["loc"] or ("",)
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        model = _model_at(cls, where)
        return f"unknown key {place!r}" + (_nearest(str(key), model.model_fields) if model else "")
    if problem["type"] == "missing":
        return f"missing key {place!r}"
    if problem["type"] == "tuple_type" and isinstance(problem["input"], Mapping):
        return f"{place}: there may be several: write [[{place}]] instead of [{place}]"
    if problem["type"] == "union_tag_not_found":
        return f"missing key '{place}.{_tag(problem)}'"
    if problem["type"] == "union_tag_invalid":
        known = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
        hint = _nearest(problem["ctx"]["tag"], dict.fromkeys(known))
        return f"{place}.{_tag(problem)}: there is no {problem['ctx']['tag']!r}{hint}"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def _tag(problem: ErrorDetails) -> str:
    """The key by whose value a table is told from others of a union."""
    return str(problem["ctx"]["discriminator"]).strip("'")


def _nearest(key: str, known: Mapping[str, object]) -> str:
    match = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; known here: {', '.join(sorted(known))}"


def _model_at(cls: type[BaseModel], where: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that a path of keys leads to; keys of maps and indices of lists are passed over.

    Where a table may be of several kinds, pydantic's path names the one that was meant, by its tag.
    """
    models = [cls]
    for key in where:
        fields = [model.model_fields[key] for model in models if isinstance(key, str) and key in model.model_fields]
        below = [found for field in fields for found in _models_in(field.annotation)]
        models = below or [model for model in models if key in _tags(model)] or models
    return models[0] if models else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if _is_model(annotation):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _tags(model: type[BaseModel]) -> list[Any]:
    """The values by which a model is told from others of a union."""
    literals = (field.annotation for field in model.model_fields.values() if get_origin(field.annotation) is Literal)
    return [value for literal in literals for value in get_args(literal)]


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel)


def _type_at(cls: type[BaseModel], keys: Sequence[str]) -> Any:
    """The type that a path of keys leads to, through models, maps and unions; None: the path is unknown."""
    annotation: Any = cls
    for key in keys:
        annotation = _type_below(annotation, key)
    return annotation


def _type_below(annotation: Any, key: str) -> Any:
    if _is_model(annotation):
        field = annotation.model_fields.get(key)
        return field.annotation if field else None
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return get_args(annotation)[1]
    return next((found for each in get_args(annotation) if (found := _type_below(each, key)) is not None), None)


def _is_structured(annotation: Any) -> bool:
    """Whether a value of this type is, or may be, a table or a list."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        return any(_is_structured(each) for each in get_args(annotation))
    kind = origin or annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel | Collection) and not issubclass(kind, str | bytes)
