"""The JSON Schemas of docs/schemas, and what of a document they do not allow.

A published schema allows fields that it does not name, since fields are added within a version.
What this version prints is held to the fields that are named: `unnamed=False`.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from support.places import DOCS

FOLDER = DOCS / "schemas"
_MOST = 40  # rows of a list that are looked at; those of a large file are alike


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas by what documents call them: "ckptkit.ls/2"."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return {schema["title"]: schema for schema in found}


@cache
def _validator(name: str, unnamed: bool) -> Draft202012Validator:
    schema = schemas()[name]
    return Draft202012Validator(schema if unnamed else without_unnamed(schema))


def without_unnamed(schema: Any) -> Any:
    """Return a schema that allows no field beside those that it names."""
    if isinstance(schema, list):
        return [without_unnamed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: without_unnamed(value) for name, value in schema.items()}
    if "required" in schema and "properties" in schema:
        found.setdefault("additionalProperties", False)
    return found


def refused(document: dict[str, Any], *, unnamed: bool = True) -> list[str]:
    """Return what the schema of a document does not allow, a sentence each.

    Args:
        document: as `--format json` prints it; it says which schema it is of.
        unnamed: whether fields that the schema does not name are allowed.
    """
    errors = _validator(document["schema"], unnamed).iter_errors(_shortened(document))
    return [f"{error.json_path}: {_innermost(error).message[:300]}" for error in errors]


def _innermost(error: Any) -> Any:
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return error


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(item) for item in value[:_MOST]]
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    return value
