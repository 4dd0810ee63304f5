"""Settings in three layers, TOML < environment < command line, with errors that name the key and its remedy.

A settings file is a tree of frozen pydantic models: the root derives from `Settings`, each table from `Section`. An
environment variable is the prefix, then the path with `__` between the parts: `EDGE_AGENT__BROKER__HOST`. A command
line override is `path.to.key=value`, its value read as TOML where that is possible, else as text.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as ForeignSettingsError

from shared.errors import SettingsError


class Section(BaseModel):
    """A table of a settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(BaseSettings):
    """Root of a settings file; `env_prefix` in a subclass's `model_config` names its environment variables."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_nested_delimiter="__")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only `load` reads the environment; constructing a settings object reads what it is given."""
        return (init_settings,)

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
    prefix = str(cls.model_config.get("env_prefix") or "")
    ours = {name.lower(): value for name, value in environ.items() if name.lower().startswith(prefix.lower())}
    for name in ours:
        keys = name[len(prefix) :].split("__")
        if keys[0] not in cls.model_fields:
            hint = _nearest(keys[0], cls.model_fields)
            raise SettingsError(f"environment variable {name.upper()}: unknown key {keys[0]!r}{hint}")
    source = EnvSettingsSource(cls, env_prefix=prefix, env_nested_delimiter="__")
    source.env_vars = ours
    try:
        return source()
    except ForeignSettingsError as err:
        raise SettingsError(f"environment: {err}; a whole table is written as JSON") from err


def _from_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            raise SettingsError(f"override {override!r} is not of the form path.to.key=value")
        nested: Any = _toml_value(text.strip())
        for key in reversed(path.strip().split(".")):
            nested = {key: nested}
        values = _merged(values, nested)
    return values


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(cls: type[BaseModel], err: ValidationError, path: Path | None) -> str:
    lines = []
    for problem in err.errors():
        *where, key = problem["loc"] or ("",)
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            model = _model_at(cls, where)
            hint = _nearest(str(key), model.model_fields) if model else ""
            lines.append(f"unknown key {place!r}{hint}")
        elif problem["type"] == "missing":
            lines.append(f"missing key {place!r}")
        else:
            lines.append(f"{place}: {problem['msg']}")
    source = str(path) if path else "settings"
    return f"{source}: " + "; ".join(lines)


def _nearest(key: str, known: Mapping[str, object]) -> str:
    match = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; known here: {', '.join(sorted(known))}"


def _model_at(cls: type[BaseModel], where: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that a path of keys leads to; keys of maps and indices of lists are passed over."""
    model: type[BaseModel] | None = cls
    for key in where:
        if model is not None and isinstance(key, str) and key in model.model_fields:
            model = _model_in(model.model_fields[key].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return annotation
    found = [model for argument in get_args(annotation) if (model := _model_in(argument))]
    return found[0] if found else None
