import json

from openapi_spec_validator import validate

from web.openapi import FILE, openapi, written
from web.routes import ROUTES

TOLD = openapi(ROUTES)


def test_the_document_that_is_committed_is_that_of_the_routes() -> None:
    assert FILE.read_text() == written(TOLD), "make schemas"


def test_the_document_is_openapi_as_others_read_it() -> None:
    validate(json.loads(FILE.read_text()))


def test_every_route_is_an_operation_by_its_own_name() -> None:
    found = {each["operationId"] for methods in TOLD["paths"].values() for each in methods.values()}

    assert found == {route.name for route in ROUTES}
    assert len(found) == len(ROUTES)
    assert "GetActiveDataset" in found


def test_only_the_leases_and_getis_own_route_mark() -> None:
    assert {route.name for route in ROUTES if route.marks} == {
        "GetActiveDataset",
        "LeaseMedia",
        "RenewLease",
        "ReleaseLease",
        "SkipMedia",
    }
