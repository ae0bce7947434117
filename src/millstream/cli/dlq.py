"""`millstream dlq`: dead letters."""

import fnmatch
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from cyclopts import App, Parameter

from millstream.app import operations, queries
from millstream.cli.events import body_text, parked_fields
from millstream.cli.exits import Exit
from millstream.cli.flags import Yes, flag
from millstream.cli.place import HERE, OpenedStore, Place, opened_store
from millstream.cli.screen import PLAIN, Cell, Column, Look, Screen, Style
from millstream.cli.wording import UNKNOWN, clock_time, number, plain_lines, span
from millstream.contracts.errors import ConfigurationError, NotFoundError, RefusedError
from millstream.core.store import Parked, RequestKind, Store

app = App(name="dlq", help="Look at dead letters; redrive or discard them.", help_format="plaintext")

DEFAULT_MOST = 50
AGAIN = 0.2

STYLES: dict[str, Style] = {"dead": "red", "retry": "yellow", "queued": "dim"}

COLUMNS = [
    Column("ID", right=True),
    Column("STATE", drop=4),
    Column("GROUP", id=True, least=24),
    Column("TYPE", id=True, least=16),
    Column("KEY", drop=1, id=True),
    Column("TRIES", right=True, drop=3),
    Column("FAILED", right=True, drop=2),
    Column("ERROR", least=16),
]

Group = Annotated[str | None, Parameter(help="Only those of this group.")]
Type = Annotated[str | None, Parameter(help="Only those of this event type; * stands for anything.")]
Contains = Annotated[str | None, Parameter(name="--error", help="Only those whose error or reason has this text in it.")]
Reason = Annotated[str, Parameter(help="Why; it is kept with the request.")]
All = Annotated[bool, flag("All that the filters leave, instead of single ids.", "--all")]
Wait = Annotated[float | None, Parameter(help="Wait at most so many seconds until it is done.")]


@app.command(name="list")
async def list_(
    *,
    group: Group = None,
    type: Type = None,
    error: Contains = None,
    parked: Annotated[bool, flag("Also what waits: for its next attempt, or behind another.")] = False,
    last: Annotated[int, Parameter(name=["--last", "-n"], help="At most so many, the newest.")] = DEFAULT_MOST,
    place: Place = HERE,
    look: Look = PLAIN,
) -> None:
    """Show dead letters: events that could not be handled, with their bytes intact.

    For example:
      millstream dlq list
      millstream dlq list --group mailer.send --error SMTP
    """
    screen = Screen(look)
    async with opened_store(place) as where:
        found = [each async for each in _chosen(where.store, group, type, error, dead=not parked)]
        now = where.clock.micros()
    shown = found[-last:] if last > 0 else []
    if look.json:
        screen.document("dead_letters", total=len(found), dead_letters=[parked_fields(each) for each in shown])
        return
    if not found:
        screen.hint(f"No dead letters in {place.store or 'the store'}" + (" match." if group or type or error else "."))
        return
    screen.table(COLUMNS, [_row(each, now) for each in shown])
    if len(shown) < len(found):
        screen.hint(f"{len(shown)} of {number(len(found))}; -n {len(found)} shows all.")
    screen.hint(f"Next: millstream dlq show {shown[-1].id}" if shown else "")


@app.command
async def show(id: int, /, *, place: Place = HERE, look: Look = PLAIN) -> None:
    """Show one dead letter: the event, each failure, and where the handler stopped.

    For example:
      millstream dlq show 17
      millstream dlq show 17 --output json
    """
    screen = Screen(look)
    async with opened_store(place) as where:
        parked = await queries.dead_letter(where.store, id)
        behind = 0
        if parked.state != "queued":
            behind = (await where.store.sequences(parked.group, parked.partition)).get(parked.sequence, 1) - 1
    if look.json:
        screen.document("dead_letter", behind=behind, **parked_fields(parked))
        return
    envelope = parked.envelope
    style = STYLES.get(parked.state, "")
    screen.row([Cell(f"{parked.state} ", style), Cell(f"{id}  ", "bold"), Cell(f"{parked.group}  {parked.reason}")])
    for name, value in (
        ("event", f"{envelope.type}  {envelope.id}  from {envelope.source}" if envelope is not None else "not readable as an event"),
        ("key", (envelope.key if envelope is not None else None) or UNKNOWN),
        ("where", f"{parked.partition.topic}/{parked.partition.number} at {parked.position}"),
        ("attempts", str(parked.attempts)),
        ("failed", f"first {clock_time(parked.first_failure or 0)}, last {clock_time(parked.last_failure or 0)}"),
        ("behind it", f"{behind} events of the same key wait" if behind else "nothing"),
        ("error", parked.error or UNKNOWN),
    ):
        screen.row([Cell(f"{name:<10}", "dim"), Cell(value)])
    screen.say(body_text(envelope, parked.message))
    for line in plain_lines(parked.stack).splitlines():
        screen.say(line, "dim")
    screen.hint(f"Next: millstream dlq redrive {id}   or: millstream dlq discard {id} --yes")


@app.command
async def redrive(
    *ids: int,
    group: Group = None,
    type: Type = None,
    error: Contains = None,
    all: All = False,
    reason: Reason = "",
    yes: Yes = False,
    wait: Wait = None,
    place: Place = HERE,
    look: Look = PLAIN,
) -> int:
    """Have dead letters handled again, in the order of their key.

    The group's workers do it; it waits until one runs. Single ids are done at
    once, --all with its filters says how many there are, and needs --yes.

    For example:
      millstream dlq redrive 17 18
      millstream dlq redrive --all --group mailer.send --yes --wait 30
    """
    async with opened_store(place) as where:
        chosen = await _ids(where.store, ids, group, type, error, all=all)
        if all and not yes:
            raise RefusedError(f"{len(chosen)} dead letters would be handled again, with all that their handlers do. Add --yes to do it.")
        return await _request(where, Screen(look), "redrive", chosen, reason, wait)


@app.command
async def discard(
    *ids: int,
    group: Group = None,
    type: Type = None,
    error: Contains = None,
    all: All = False,
    reason: Reason = "",
    yes: Yes = False,
    wait: Wait = None,
    place: Place = HERE,
    look: Look = PLAIN,
) -> int:
    """Give dead letters up: they are never handled, and what waits behind them goes
    on.

    For example:
      millstream dlq discard 17 --reason 'test order' --yes
      millstream dlq discard --all --type 'order.*' --yes
    """
    async with opened_store(place) as where:
        chosen = await _ids(where.store, ids, group, type, error, all=all)
        if not yes:
            raise RefusedError(f"{len(chosen)} dead letters would be gone for good. Add --yes to do it.")
        return await _request(where, Screen(look), "discard", chosen, reason, wait)


async def _request(where: OpenedStore, screen: Screen, kind: RequestKind, ids: Sequence[int], reason: str, wait: float | None) -> int:
    accepted, missing = await operations.request(where.store, kind, ids, reason)
    done, waiting = await _outcome(where, accepted, wait)
    if screen.json:
        screen.document(kind, accepted=accepted, missing=missing, done=done, waiting=waiting)
    else:
        screen.say(f"{kind}: {len(accepted)} asked for" + ("" if wait is None else f", {len(done)} done, {len(waiting)} still parked"))
        if waiting:
            screen.hint("The group's workers do it, as soon as they run. See: millstream dlq list --parked")
    names = ", ".join(map(str, missing))
    if not accepted:
        raise NotFoundError(f"none of these dead letters is there (any more): {names or 'none was chosen'}. See: millstream dlq list")
    if missing:
        screen.warn(f"not there (any more): {names}")
    return Exit.PARTIAL if missing or (wait is not None and waiting) else Exit.OK


async def _outcome(where: OpenedStore, ids: Sequence[int], wait: float | None) -> tuple[list[int], list[int]]:
    """Which of these have left the dead letters, once that is so for all, or the time is up."""
    end = where.clock.monotonic() + (wait or 0)
    while True:
        left = {parked.id for parked in await where.store.parked(ids=ids)} if ids else set[int]()
        if not left or where.clock.monotonic() >= end:
            return [id_ for id_ in ids if id_ not in left], [id_ for id_ in ids if id_ in left]
        await where.clock.sleep(AGAIN)


async def _ids(store: Store, ids: Sequence[int], group: str | None, type: str | None, error: str | None, *, all: bool) -> list[int]:
    if bool(ids) == all:
        raise ConfigurationError("name the ids, such as 17 18, or say --all with filters such as --group NAME; not both.")
    if ids:
        return list(ids)
    chosen = [each.id async for each in _chosen(store, group, type, error, dead=True)]
    if not chosen:
        raise NotFoundError("no dead letter fits these filters. See: millstream dlq list")
    return chosen


async def _chosen(store: Store, group: str | None, type: str | None, error: str | None, *, dead: bool) -> AsyncIterator[Parked]:
    async for each in queries.all_parked(store, group, dead=dead):
        if type is not None and not (each.envelope is not None and fnmatch.fnmatchcase(each.envelope.type, type)):
            continue
        if error is not None and error.lower() not in f"{each.error}\n{each.reason}".lower():
            continue
        yield each


def _row(each: Parked, now: int) -> list[Cell | str]:
    envelope = each.envelope
    return [
        str(each.id),
        Cell(each.state, STYLES.get(each.state, "")),
        each.group,
        envelope.type if envelope is not None else f"? on {each.partition.topic}",
        (envelope.key if envelope is not None else None) or UNKNOWN,
        str(each.attempts),
        span(max(0, now - each.last_failure) / 1e6) if each.last_failure else UNKNOWN,
        each.error or each.reason,
    ]
