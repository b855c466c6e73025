"""Metadata of a `Dataset` as JSON and back: what is no JSON itself is kept with its type.

NumPy and pandas are not needed to keep their values, only to get them back as such.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, cast

from dvfs.store.errors import Corrupt, InvalidInput, Unsupported
from dvfs.store.labels import Json

_TYPE = "dvfs.type"
_FRAME = "pandas.DataFrame"
_ARRAY = "numpy.ndarray"


def to_json(value: object) -> Json:
    """Return *value* as what JSON can hold, for `from_json`. Raises InvalidInput for other types."""
    given: Any = value
    if _is(value, "pandas", "DataFrame"):
        split = given.to_dict(orient="split")
        fields = {name: _plain(_without_nan(split[name])) for name in ("columns", "index", "data")}
        return cast("Json", {_TYPE: _FRAME} | fields)
    if _is(value, "numpy", "ndarray"):
        if given.dtype.hasobject or given.dtype.kind not in "biufUS":
            raise InvalidInput(f"an array of {given.dtype} cannot be kept as metadata", hint="add it as a file")
        data = given.tolist() if given.dtype.kind != "S" else given.astype("U").tolist()
        fields = {"dtype": given.dtype.str, "shape": list(given.shape), "data": _without_nan(data)}
        return cast("Json", {_TYPE: _ARRAY} | fields)
    return cast("Json", _plain(value))


def from_json(value: Json) -> object:
    """Return what `to_json` made *value* of.

    Raises Unsupported where the library of its type is not installed, Corrupt where it is not of its type.
    """
    if not isinstance(value, dict) or _TYPE not in value:
        return value
    kept: dict[str, Any] = {name: field for name, field in value.items() if name != _TYPE}
    try:
        if value[_TYPE] == _FRAME:
            return _library("pandas").DataFrame(**kept)
        if value[_TYPE] == _ARRAY:
            return _library("numpy").array(kept["data"], dtype=kept["dtype"]).reshape(kept["shape"])
    except (TypeError, ValueError, KeyError) as exc:
        raise Corrupt(f"metadata that calls itself a {value[_TYPE]} is none: {exc}") from exc
    return value


def _plain(value: object) -> object:
    """Return *value* with tuples as lists and scalars of NumPy as plain ones. Raises InvalidInput."""
    if value is None or isinstance(value, (str, bool)) or type(value) in (int, float):
        return value
    if isinstance(value, dict):
        return {_name(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return value.item()
    raise InvalidInput(
        f"metadata of type {type(value).__name__} cannot be kept",
        hint="give what JSON holds, a NumPy array or a pandas DataFrame, or add a file",
    )


def _without_nan(value: object) -> object:
    """Return *value* with None for NaN, which JSON has not; both libraries take it for NaN again."""
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidInput(f"metadata has a key {name!r} that is no text")
    return name


def _is(value: object, library: str, name: str) -> bool:
    return any(kind.__module__.partition(".")[0] == library and kind.__name__ == name for kind in type(value).__mro__)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise Unsupported(f"this metadata is of {name}, which is not installed", hint=f"install {name}") from exc
