"""Answers and refusals, and the parameters of a request, each within its bounds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from millstream.console.exports import as_csv

_encode = msgspec.json.Encoder(enc_hook=str).encode
#: The largest number that a column of the read model holds.
LARGEST = (1 << 63) - 1


def encode(value: object) -> bytes:
    """A value as JSON."""
    return _encode(value)


def answer(value: object, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(_encode(value), status_code=status, media_type="application/json")


def refuse(status: int, what: str) -> Response:
    """An error as JSON, with what to do."""
    return JSONResponse({"error": what}, status_code=status)


def table(rows: Sequence[Mapping[str, Any]], name: str) -> Response:
    """Rows as a CSV file."""
    return download(as_csv(rows).encode("utf-8", "replace"), f"{name}.csv", "text/csv")


def download(data: bytes, name: str, kind: str) -> Response:
    """A file to keep; a browser shows none of it."""
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type=f"{kind}; charset=utf-8" if kind.startswith("text/") else kind, headers=headers)


def integer(request: Request, name: str, *, least: int = 0, most: int = LARGEST, default: int | None = None) -> int | None:
    """A whole number of the query; beyond its bounds it is the bound."""
    text = request.query_params.get(name)
    if not text:
        return default
    if len(text) > 20:
        raise ValueError(f"{name}: {text[:20]}… is no number")
    try:
        return min(max(int(text), least), most)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no whole number") from None


def number(request: Request, name: str, *, least: float, most: float, default: float) -> float:
    """A number of the query; beyond its bounds it is the bound."""
    text = request.query_params.get(name)
    if not text:
        return default
    try:
        value = float(text[:40])
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{name}: {text[:20]!r} is no number")
    return min(max(value, least), most)
