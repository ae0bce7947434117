"""What is taken away works where it is taken, and nothing in it can do harm there."""

import ast
import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from millstream.console.exports import as_csv, as_mermaid, as_test
from millstream.console.history import search_bodies
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Features

from .system import OrderCreated, inventory, system


def test_a_table_comes_back_from_csv() -> None:
    """Whatever is in its cells; what is nested is JSON, and unknown is empty."""
    rows = [{"a": 'x"y,\n', "b": None, "c": [1, "ü"]}, {"a": "", "b": 2**63, "d": True}]

    (head, *lines) = csv.reader(io.StringIO(as_csv(rows), newline=""))

    assert head == ["a", "b", "c", "d"]
    assert lines == [['x"y,\n', "", '[1, "ü"]', ""], ["", str(2**63), "", "true"]]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    """A spreadsheet shows it as the text that it is."""
    (_, (cell,)) = csv.reader(io.StringIO(as_csv([{"a": text}]), newline=""))

    assert cell == f"'{text}"


def test_the_map_as_mermaid_has_every_edge_and_no_markup_of_others() -> None:
    """Names stay between their quotes."""
    hostile = '"]; click n0 "javascript:alert(1)"\n<script>`#'
    node = {"kind": "event", "service": None}
    drawn = {
        "nodes": [{"id": "event:a", "label": hostile, **node}, {"id": "group:b", "label": "b", "kind": "handler", "service": hostile}],
        "edges": [{"from": "event:a", "to": "group:b", "observed": True, "declared": True, "rate": 1.25}],
    }

    text = as_mermaid(drawn)

    assert text.splitlines()[0] == "flowchart LR"
    assert text.splitlines()[-1] == '  n0 -->|"1.2/s"| n1'
    assert "<script>" not in text
    assert text.count('"') == 2 * 4


def letter(**more: Any) -> dict[str, Any]:
    """A dead letter as the read model has it."""
    return {
        "group": "inventory.reserve", "handler": "reserve", "type": "order.created", "id": "x", "key": "k", "error": "ValueError: no",
        "reason": "", "size": 2, "contract": None, **more,
    }  # fmt: skip


HOSTILE = ('"""\nimport os; os.system("rm")\n"""', "x\nimport os", "\\", "'); drop", "{self}", "\u202e\u2028", "class", "1st", "None")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_dead_letter_as_a_test_is_python_whatever_it_holds(hostile: str) -> None:
    """Only what we wrote is code."""
    data = hostile.encode() + bytes(range(256))
    text = as_test(letter(type=hostile, id=hostile, error=hostile, handler=hostile, group=hostile, size=len(data)), data)

    tree = ast.parse(text)
    (body,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(body) == data
    assert [type(node).__name__ for node in tree.body] == ["Import", "ImportFrom", "ImportFrom", "Assign", "AsyncFunctionDef"]


async def test_the_test_of_a_dead_letter_fails_as_the_letter_did(tmp_path: Path) -> None:
    """It runs as it is, once it knows where the App is, and goes green with the repair."""
    async with system(tmp_path) as (app, screen, _):
        await app.publish(OrderCreated("o-1", -1))
        (group,) = await screen.until("/api/dead", len)
        (row,) = await screen.get(f"/api/dead/{group['fingerprint']}")
        response = await screen.client.get(f"/api/letter/test?group={row['group']}&source={row['source']}&id={row['id']}")

    assert response.headers["content-disposition"] == 'attachment; filename="test_dead_letter.py"'
    for mended, fails in ((False, True), (True, False)):
        service = inventory(tmp_path)
        service.state.mended = mended
        space: dict[str, Any] = {}
        code = response.text.replace("from inventory import OrderCreated, app", "")
        space |= {"OrderCreated": OrderCreated, "app": service}
        exec(compile(code, "test", "exec"), space)
        if fails:
            with pytest.raises(AssertionError):
                await space["test_reserve_handles_order_created"]()
        else:
            await space["test_reserve_handles_order_created"]()


async def test_a_body_is_searched_for_step_by_step_from_the_newest_on(tmp_path: Path) -> None:
    """Everything that fits is found once, and how far it has looked is said exactly."""
    app = inventory(tmp_path)
    async with app:
        await app.publish_many([OrderCreated(f"o-{n}", n) for n in range(700)])
        found: list[str] = []
        scanned, cursor, steps = 0, "", 0
        while True:
            page = await search_bodies(app.broker, "order.created", '"QUANTITY":69', cursor=cursor, limit=3)
            found += [event["key"] for event in page["events"]]
            scanned, steps = scanned + page["scanned"], steps + 1
            assert page["total"] == "700"
            if not page["more"]:
                break
            cursor = page["next"]

        assert sorted(found) == sorted(f"o-{n}" for n in (69, *range(690, 700)))
        assert scanned == 700
        assert steps > 1


@pytest.mark.parametrize("text", ["Grüße", "GRÜSSE", 'quo"te', "tab\t", "\u2028", "😀"])
async def test_a_body_is_found_by_text_however_it_is_escaped(tmp_path: Path, text: str) -> None:
    """As it is, or as JSON writes it."""
    app = inventory(tmp_path)
    async with app:
        for number, ascii_ in enumerate((True, False)):
            data = json.dumps({"order_id": f"x{text.lower()}y"}, ensure_ascii=ascii_).encode()
            sent = Envelope(id=f"e-{number}", source="/s", type="order.created", time=1, data=data, topic="order.created")
            await app.broker.publish([sent])

        page = await search_bodies(app.broker, "order.created", text if text.isascii() else text.lower())

        assert len(page["events"]) == 2


async def test_nothing_is_searched_where_nothing_is_kept(tmp_path: Path) -> None:
    """And nothing is searched for nothing."""
    app = inventory(tmp_path)
    async with app:
        with pytest.raises(ValueError, match="write what to look for"):
            await search_bodies(app.broker, "order.created", "")
        with pytest.raises(ValueError, match="this is none"):
            await search_bodies(app.broker, "order.created", "x", cursor="nonsense")
        forgetful = SimpleNamespace(features=Features(replayable=False), name="mq://host")
        with pytest.raises(ConfigurationError, match="mq://host keeps no history"):
            await search_bodies(cast(Any, forgetful), "order.created", "x")
