"""The whole shop, as its users start it: every service a process, real HTTP and SMTP, real kills."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "millstream", "demo", "shop")
LIMIT = 30.0
COUNTS = ["orders", "published", "handled", "kills", "duplicates", "poison", "dead_letters", "mails"]


def environment() -> dict[str, str]:
    """The user's, with settings of the user's own service, which are none of the shop's business."""
    return {**os.environ, "MILLSTREAM_BROKER": "sqlite:////nowhere/users.db", "MILLSTREAM_STORE": "memory://"}


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until it is so."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"not within {LIMIT:.0f} s: {what}"
        select.select([], [], [], 0.02)


def is_alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass
class Shop:
    """A running demo, and what it said when it was ready."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]

    @property
    def pids(self) -> list[int]:
        """Of its services."""
        return list(self.ready["processes"].values())

    def figures(self) -> dict[str, Any]:
        """What the dashboard shows."""
        return httpx.get(f"{self.ready['dashboard']}/figures").json()  # type: ignore[no-any-return]

    def order(self, key: str) -> str:
        """Order as a program would; gives the URL of the order."""
        body = {"email": f"{key}@example.com", "lines": [{"sku": "oats", "quantity": 2}]}
        answer = httpx.post(f"{self.ready['shop']}/orders", json=body, headers={"idempotency-key": key})
        assert answer.status_code in (200, 201)
        return str(self.ready["shop"] + answer.json()["url"])

    def until_mailed(self, order: str) -> dict[str, Any]:
        """Wait until the storefront has heard that the confirmation is sent."""
        eventually(lambda: self.state(order)["state"] == "mailed", f"{order} is mailed")
        return self.state(order)

    def state(self, order: str) -> dict[str, Any]:
        """What the storefront knows of an order."""
        return httpx.get(order, headers={"accept": "application/json"}).json()  # type: ignore[no-any-return]


@contextlib.contextmanager
def open_shop(folder: Path, *flags: str) -> Iterator[Shop]:
    """A shop without customers of its own; nothing of it is left afterwards."""
    command = [*COMMAND, "--forever", "--rate", "0", "--output", "json", "--data", str(folder), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment())
    assert process.stdout is not None
    ready: dict[str, Any] = {}
    try:
        ready = json.loads(process.stdout.readline())
        yield Shop(process, ready)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        eventually(lambda: not any(map(is_alive, ready.get("processes", {}).values())), "services follow their supervisor")


def test_an_order_becomes_a_mail_and_moves_the_dashboard(tmp_path: Path) -> None:
    """The walk of a customer: the shop, the order's page, the inbox, the dashboard; each service with its own database."""
    with open_shop(tmp_path) as shop:
        assert list(shop.ready) == ["shop", "mail", "dashboard", "console", "processes"]
        assert list(shop.ready["processes"]) == ["storefront", "inventory", "mailer", "analytics", "catcher"]

        order = shop.until_mailed(shop.order("ada"))

        inbox = httpx.get(shop.ready["mail"]).text
        mail = re.search(r'href="(/mails/[^"]+)"', inbox)
        assert mail is not None
        assert f"We have your order {order['order_id']}" in inbox
        assert "2 × Rolled oats" in httpx.get(f"{shop.ready['mail']}{mail[1]}/html").text
        eventually(lambda: shop.figures()["funnel"][-1]["count"] == 1, "the dashboard counts the mail")
        with httpx.stream("GET", f"{shop.ready['dashboard']}/live") as live:
            shown = next(line for line in live.iter_lines() if line.startswith("data:"))
        assert json.loads(shown.removeprefix("data:"))["products"][0]["cents"] == 518
    assert {path.name for path in tmp_path.glob("*.db")} >= {f"{name}.db" for name in ("broker", "storefront", "inventory", "mailer")}


def test_services_that_are_killed_go_on_where_they_were(tmp_path: Path) -> None:
    """Orders placed while inventory and mailer are down are handled once they are back."""
    with open_shop(tmp_path) as shop:
        for name in ("inventory", "mailer"):
            os.kill(shop.ready["processes"][name], signal.SIGKILL)

        orders = [shop.order(f"customer{number}") for number in range(3)]

        for order in orders:
            shop.until_mailed(order)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_shop_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """Whether an operator, a script or Ctrl-C stops it."""
    with open_shop(tmp_path) as shop:
        shop.process.send_signal(number)

        assert shop.process.wait(LIMIT) == 128 + number
        assert not any(map(is_alive, shop.pids))


def test_services_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    """Nobody is there to stop them: they notice by themselves."""
    with open_shop(tmp_path) as shop:
        shop.process.kill()

        eventually(lambda: not any(map(is_alive, shop.pids)), "services follow their supervisor")


def test_a_folder_belongs_to_one_shop(tmp_path: Path) -> None:
    """A second one is refused before it touches anything."""
    with open_shop(tmp_path):
        second = subprocess.run([*COMMAND, "--data", str(tmp_path)], capture_output=True, text=True, check=False)

    assert second.returncode == 6
    assert "belongs to a shop that is running" in second.stderr


def test_without_a_terminal_it_ends_with_its_proof(tmp_path: Path) -> None:
    """By itself, after its time; a temporary folder goes when all is well."""
    run = subprocess.run(
        [*COMMAND, "--seconds", "1", "--rate", "20", "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**environment(), "TMPDIR": str(tmp_path)},
    )

    assert run.returncode == 0
    ready, proof = map(json.loads, run.stdout.splitlines())
    assert not any(map(is_alive, ready["processes"].values()))
    assert proof["ok"]
    assert proof["counts"]["orders"] == proof["counts"]["mails"] > 0
    assert not list(tmp_path.glob("millstream-shop-*"))


def test_keys_place_orders_and_do_harm_that_does_no_harm(tmp_path: Path) -> None:
    """In a terminal: an order, duplicates, a kill and a poison event, then the proof holds."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "--rate", "20", "--data", str(tmp_path)]
    seen = ""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)

        def until(pattern: str) -> None:
            nonlocal seen
            end = time.monotonic() + LIMIT
            while not re.search(pattern, seen):
                assert select.select([ours], [], [], max(0.0, end - time.monotonic()))[0], f"no {pattern!r} in {seen}"
                seen += os.read(ours, 4096).decode()

        def press(key: str, pattern: str) -> None:
            os.write(ours, key.encode())
            until(pattern)

        try:
            until("q quit")
            press("?", "becomes a dead letter")
            press("o", "placed an order: http")
            until(r"\d\d orders,")
            press("d", "published again: 10 events")
            press("k", "kill -9 storefront")
            press("p", "published poison: ")
            press("q", "All promises kept.")
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
            os.close(ours)

    counts = re.search(r"(\d+) kills  (\d+) duplicates  (\d+) poison\r\n ✓ holds", seen)
    assert counts is not None
    assert counts.groups() == ("1", "10", "1")


def proof_of(*flags: str) -> tuple[int, dict[str, Any]]:
    """A short run under faults: its exit code and its one line of JSON."""
    run = subprocess.run(
        [*COMMAND, "--prove", "--seed", "1", "--output", "json", *flags],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    (line,) = run.stdout.splitlines()
    return run.returncode, json.loads(line)


def test_a_proof_under_faults_holds() -> None:
    """Services die, events come twice and poisoned, and every promise is kept; the JSON is what scripts rely on."""
    code, proof = proof_of("--seconds", "4")

    assert (code, proof["ok"]) == (0, True), [each for each in proof["invariants"] if not each["ok"]]
    assert list(proof) == ["ok", "mode", "broker", "seed", "seconds", "counts", "invariants"]
    assert list(proof["counts"]) == COUNTS
    assert (proof["mode"], proof["broker"], proof["seed"]) == ("protected", "sqlite", 1)
    assert all(proof["counts"][name] for name in COUNTS)
    assert proof["counts"]["dead_letters"] == 2 * proof["counts"]["poison"]
    assert all(list(each) == ["name", "ok", "checked", "violations", "evidence"] for each in proof["invariants"])


@pytest.mark.parametrize("flags", [("--naive",), ("--mutate", "no_inbox")])
def test_a_proof_without_protection_is_broken(flags: tuple[str, ...]) -> None:
    """The same faults and the same auditor: a proof that could not fail would prove nothing."""
    code, proof = proof_of("--seconds", "4", *flags)

    assert (code, proof["ok"]) == (1, False)
    assert any(each["violations"] and each["evidence"] for each in proof["invariants"])
