"""The OpenAPI 3.1 document, generated from the route table and its models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cloud_service.api.resources import Problem
from cloud_service.api.routing import Route
from shared import __version__

_SCHEMAS = "#/components/schemas/"
_ALWAYS = (500, 503)
_FILE = {"type": "string", "format": "binary"}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document of these routes."""
    models: list[type[BaseModel]] = [Problem]
    for route in routes:
        models += [model for model in (route.gives, route.body) if model is not None and model not in models]
    parts = {
        name: part for route in routes if route.query for name, part in _query_schema(route.query)["$defs"].items()
    }
    _, schema = models_json_schema([(m, _mode(m, routes)) for m in models], ref_template=_SCHEMAS + "{model}")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgeloop management API", "version": __version__},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**parts, **schema["$defs"]},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _mode(model: type[BaseModel], routes: Sequence[Route]) -> Any:
    return "validation" if any(route.body is model for route in routes) else "serialization"


def _operation(route: Route) -> dict[str, Any]:
    always = _ALWAYS if route.is_open else (401, *_ALWAYS)
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {str(route.status): _success(route), **{str(s): _failure(s) for s in (*route.errors, *always)}},
    }
    if route.is_open:
        operation["security"] = []
    if route.body is not None:
        content = {"application/json": {"schema": _reference(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.form is not None:
        parts = {name: {"type": "string", "format": "binary", "description": d} for name, d in route.form.items()}
        form = {"multipart/form-data": {"schema": {"type": "object", "properties": parts}}}
        operation["requestBody"] = {"required": True, "content": form}
    if route.takes:
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": _FILE} for kind in route.takes}}
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    properties = _query_schema(route.query)["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": part} for name, part in properties.items()]


def _query_schema(model: type[BaseModel]) -> dict[str, Any]:
    return {"$defs": {}, **model.model_json_schema(ref_template=_SCHEMAS + "{model}")}


def _success(route: Route) -> dict[str, Any]:
    if route.gives is not None:
        content = {"application/json": {"schema": _reference(route.gives)}}
    elif route.path.endswith(".json"):
        return {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}
    else:
        kinds = route.media or ("application/octet-stream",)
        return {"description": "OK", "content": {kind: {"schema": _FILE} for kind in kinds}}
    return {"description": HTTPStatus(route.status).phrase, "content": content}


def _failure(status: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _reference(Problem)}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"{_SCHEMAS}{model.__name__}"}
