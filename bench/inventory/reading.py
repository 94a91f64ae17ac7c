"""A TOML file as a model, or one sentence about what is wrong with it: file, key, what is allowed."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from bench.errors import UsageError

_Model = TypeVar("_Model", bound=BaseModel)


def read(path: Path, model: type[_Model]) -> _Model:
    """The file at `path` as a `model`. Raises UsageError."""
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {_words(error, model)}") from error


def _words(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints: key, value and what is allowed."""
    # A misspelt key is both unknown and missing: the first of the two says more.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    where, table = _place(first["loc"], model)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    context: dict[str, Any] = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; allowed here: {', '.join(table.model_fields)}"
        case "missing":
            return f"{key}: missing; it is required"
        case "union_tag_not_found":
            return f"{key}.backend: missing; it is required; allowed: {_tags(table, where)}"
        case "union_tag_invalid":
            return f"{key}.backend: {context['tag']!r}: allowed: {context['expected_tags']}"
        case "string_pattern_mismatch" if context["pattern"].startswith("^[a-z0-9]"):
            return f"{key}: {first['input']!r} is not lower-case letters, digits and hyphens (at most 41)"
        case "value_error" if isinstance(first["input"], dict) and first["input"]:
            return f"{key}: {context['error']}"
        case "value_error":
            return f"{key}: {first['input']!r}: {context['error']}"
        case _:
            return f"{key}: {first['input']!r}: {first['msg']}"


def _place(location: Iterable[int | str], model: type[BaseModel]) -> tuple[list[int | str], type[BaseModel]]:
    """The keys on the way to a complaint, without pydantic's own words, and the table in which it ends."""
    where: list[int | str] = []
    waiting: list[type[BaseModel]] = []
    for part in location:
        chosen = [one for one in waiting if part in _backends(one)]
        if chosen:
            model, waiting = chosen[0], []
            continue
        if isinstance(part, int):
            where.append(part)
            continue
        if waiting:
            model, waiting = waiting[0], []
        if part not in model.model_fields:
            # The name of a type that pydantic tried, or a key that does not exist.
            if part not in ("str", "int", "constrained-str", "function-after"):
                where.append(part)
            continue
        where.append(part)
        waiting = list(_tables(model.model_fields[part].annotation))
    return where, model


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a key's type consists of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType, list):
        for argument in get_args(annotation):
            yield from _tables(argument)


def _backends(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("backend")
    return get_args(field.annotation) if field else ()


def _tags(model: type[BaseModel], where: list[int | str]) -> str:
    tables = _tables(model.model_fields[str(where[-1])].annotation)
    return ", ".join(repr(name) for one in tables for name in _backends(one))
