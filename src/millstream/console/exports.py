"""What can be taken away: tables as CSV, the map as Mermaid, a dead letter as a test."""

import csv
import io
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a head; what is nested is JSON, and no cell is a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return out.getvalue()


def _cell(value: object) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"'{text}" if text.startswith(_FORMULA) else text


def as_mermaid(drawn: Mapping[str, Any]) -> str:
    """The flow map as a Mermaid flowchart: services around their handlers, dotted where nothing flowed."""
    nodes = {node["id"]: f"n{number}" for number, node in enumerate(drawn["nodes"])}
    lines = ["flowchart LR"]
    shapes = {"event": ('{{"', '"}}'), "producer": ('(["', '"])'), "handler": ('["', '"]')}
    services: dict[str, list[str]] = {}
    for node in drawn["nodes"]:
        before, after = shapes.get(node["kind"], ('["', '"]'))
        services.setdefault(node["service"] or "", []).append(f"{nodes[node['id']]}{before}{_label(node['label'])}{after}")
    for number, (service, members) in enumerate(sorted(services.items())):
        if service:
            lines += [f'  subgraph s{number}["{_label(service)}"]', *(f"    {member}" for member in members), "  end"]
        else:
            lines += [f"  {member}" for member in members]
    for edge in drawn["edges"]:
        arrow = "-->" if edge["observed"] and edge["declared"] else "==>" if edge["observed"] else "-.->"
        rate = f'|"{edge["rate"]:.1f}/s"|' if edge["rate"] else ""
        lines.append(f"  {nodes[edge['from']]} {arrow}{rate} {nodes[edge['to']]}")
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    """A text between quotes in Mermaid, where `#` begins a character reference."""
    plain = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).replace("\n", " ")
    return plain.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;").replace("`", "#96;")


def as_test(letter: Mapping[str, Any], data: bytes) -> str:
    """A dead letter as a pytest test, to be pasted beside the service's other tests."""
    name, contract = _class_name(letter), letter.get("contract")
    module = _identifier(letter["group"].partition(".")[0])
    what = f"{_identifier(letter['handler'])}_handles_{_identifier(letter['type'])}"
    cut = ""
    if len(data) < letter["size"]:
        cut = f"# Only the first {len(data)} of {letter['size']} bytes are kept: complete them before you run it.\n"
    adapt = "" if contract else "; nobody knows its contract any more"
    return f'''import msgspec
from millstream.testing import TestApp

from {module} import {name}, app  # adapt: where your App and its contracts are{adapt}

# {_comment(letter["type"])} {_comment(letter["id"])}: {_comment(letter["error"] or letter["reason"])}
{cut}BODY = {data!r}


async def test_{what}() -> None:
    async with TestApp(app) as test:
        await test.publish(msgspec.json.decode(BODY, type={name}))

        assert test.failures == []
        assert test.dead_letters == []
'''


def _class_name(letter: Mapping[str, Any]) -> str:
    """The class of the contract, as its schema names it, or else as one would be named."""
    contract: dict[str, Any] = letter.get("contract") or {}
    schema: dict[str, Any] = contract.get("schema") or {}
    named = str(schema.get("$ref", "")).rpartition("/")[2] or str(schema.get("title", ""))
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", named) and not keyword.iskeyword(named):
        return named
    made = "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", letter["type"]))
    return made if made[:1].isalpha() and not keyword.iskeyword(made) else f"Event{made}"


def _identifier(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "service"
    return f"the_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name


def _comment(text: str) -> str:
    """One line that nothing can break out of."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:120]
