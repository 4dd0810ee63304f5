"""The document says what the routes do; the fixture `api` holds every answer of the other tests against the routes."""

import re

from pydantic import BaseModel

from cloud_service.api.app import ROUTES
from cloud_service.api.openapi import document


def references(value) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(each) for each in value.values()))
    if isinstance(value, list):
        return set().union(*(references(each) for each in value))
    return set()


async def test_document_lists_exactly_what_the_app_routes(api):
    _, served = await api("GET", "/api/v1/openapi.json")
    routed = {
        (route.method, route.resource.canonical) for route in api.client.app.router.routes() if route.method != "HEAD"
    }
    documented = {(method.upper(), path) for path, item in served["paths"].items() for method in item}
    assert documented == routed == {(route.method, route.path) for route in ROUTES}
    assert served == document(ROUTES)
    assert served["openapi"] == "3.1.0"


def test_every_reference_in_the_document_leads_somewhere():
    made = document(ROUTES)
    schemas = made["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in references(made)} <= set(schemas)
    assert "Problem" in schemas


def test_every_operation_is_complete():
    made = document(ROUTES)
    names = [operation["operationId"] for item in made["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))
    for route in ROUTES:
        operation = made["paths"][route.path][route.method.lower()]
        assert operation["summary"]
        assert {"500", "503", str(route.status)} <= set(operation["responses"])
        places = {(parameter["name"], parameter["in"]) for parameter in operation["parameters"]}
        assert {(name, "path") for name in re.findall(r"{(\w+)}", route.path)} <= places
        if route.query is not None:
            assert {(name, "query") for name in route.query.model_fields} <= places
        assert ("requestBody" in operation) == bool(route.body or route.form or route.takes)


def test_requests_refuse_what_they_do_not_know():
    models: list[type[BaseModel]] = [model for route in ROUTES for model in (route.body, route.query) if model]
    assert models
    assert all(model.model_config["extra"] == "forbid" for model in models)
