"""What schemathesis asks for, half of the time about what is there: else nearly all it could see is 404."""

from typing import Any

import schemathesis

THERE = {
    "project": "p1",
    "workspace": "w1",
    "medium": "image:m1",
    "lease": "r1",
    "user_id": "ann",
    "task_id": "t1",
    "request_id": "r1",
}


def there(told: Any) -> Any:
    """The same, with names of what is there where a name that was made up has an even length."""
    if isinstance(told, dict):
        for name, value in THERE.items():
            if isinstance(told.get(name), str) and len(told[name]) % 2 == 0:
                told[name] = value
    return told


@schemathesis.hook
def map_path_parameters(_: Any, path_parameters: Any) -> Any:
    return there(path_parameters)


@schemathesis.hook
def map_query(_: Any, query: Any) -> Any:
    return there(query)


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    return there(body)
