"""JSON Schema, as far as the kernel's schemas use it.

Keywords that are not known here are passed over: the kernel checks every parameter again, and a
client must not refuse what a newer kernel would take.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

_TYPES: Dict[str, Any] = {
    "null": type(None), "boolean": bool, "string": str, "array": (list, tuple), "object": dict,
}
#: Schemas refer to each other; none of the kernel's does so deeper.
_DEPTH = 64


def first_problem(value: Any, whole: Mapping[str, Any]) -> Optional[str]:
    """What is wrong with ``value`` under the schema ``whole``, naming the field; None if nothing.
    """
    return _problem(value, whole, whole, "", 0)


def _problem(
    value: Any, schema: Any, whole: Mapping[str, Any], path: str, depth: int
) -> Optional[str]:
    if schema is True or not isinstance(schema, dict) or depth > _DEPTH:
        return f"{_named(path)} is not allowed" if schema is False else None
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target: Any = whole
        for segment in reference.lstrip("#/").split("/"):
            target = target.get(segment, {}) if isinstance(target, dict) else {}
        wrong = _problem(value, target, whole, path, depth + 1)
        if wrong is not None:
            return wrong
    for check in (_type, _enumeration, _bounds):
        wrong = check(value, schema, path)
        if wrong is not None:
            return wrong
    return (
        _alternatives(value, schema, whole, path, depth)
        or _inside(value, schema, whole, path, depth)
    )


def _named(path: str) -> str:
    return f"`{path}`" if path else "the value"


def is_type(value: Any, name: str) -> bool:
    """Whether ``value`` is of the JSON type ``name``."""
    if name == "integer":
        whole = isinstance(value, int) or isinstance(value, float) and value.is_integer()
        return whole and not isinstance(value, bool)
    if name == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, _TYPES.get(name, object))


def _type(value: Any, schema: Mapping[str, Any], path: str) -> Optional[str]:
    wanted = schema.get("type")
    names: List[Any] = wanted if isinstance(wanted, list) else [wanted]
    if wanted is None or any(is_type(value, name) for name in names):
        return None
    found = type(value).__name__
    return f"{_named(path)} must be {' or '.join(map(str, names))}, and is {found}"


def _enumeration(value: Any, schema: Mapping[str, Any], path: str) -> Optional[str]:
    if "const" in schema and value != schema["const"]:
        return f"{_named(path)} must be {schema['const']!r}, and is {value!r:.80}"
    if "enum" in schema and value not in schema["enum"]:
        known = ", ".join(repr(known) for known in schema["enum"])
        return f"{_named(path)} must be one of {known}, and is {value!r:.80}"
    return None


def _bounds(value: Any, schema: Mapping[str, Any], path: str) -> Optional[str]:
    if not is_type(value, "number"):
        return None
    if "minimum" in schema and value < schema["minimum"]:
        return f"{_named(path)} must be at least {schema['minimum']}, and is {value}"
    if "maximum" in schema and value > schema["maximum"]:
        return f"{_named(path)} must be at most {schema['maximum']}, and is {value}"
    return None


def _alternatives(
    value: Any, schema: Mapping[str, Any], whole: Mapping[str, Any], path: str, depth: int
) -> Optional[str]:
    for part in schema.get("allOf", ()):
        wrong = _problem(value, part, whole, path, depth + 1)
        if wrong is not None:
            return wrong
    for keyword in ("anyOf", "oneOf"):
        parts = schema.get(keyword)
        if not parts:
            continue
        wrongs = [_problem(value, part, whole, path, depth + 1) for part in parts]
        if all(wrong is not None for wrong in wrongs):
            return " or ".join(str(wrong) for wrong in wrongs)
    return None


def _inside(
    value: Any, schema: Mapping[str, Any], whole: Mapping[str, Any], path: str, depth: int
) -> Optional[str]:
    if isinstance(value, (list, tuple)) and "items" in schema:
        for index, item in enumerate(value):
            wrong = _problem(item, schema["items"], whole, f"{path}[{index}]", depth + 1)
            if wrong is not None:
                return wrong
    if not isinstance(value, dict):
        return None
    for key in schema.get("required", ()):
        if key not in value:
            return f"`{path}.{key}` is missing" if path else f"`{key}` is missing"
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    for key, item in value.items():
        inner = f"{path}.{key}" if path else str(key)
        wrong = _problem(item, properties.get(key, others), whole, inner, depth + 1)
        if wrong is not None:
            return wrong
    return None
