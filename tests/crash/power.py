"""What is done while the power goes: a publisher whose file is looked at after every cut, and a worker that goes on after it."""

import asyncio
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import msgspec
from tests.crash.campaign import SERVICES, TROUBLES, check_work
from tests.crash.disk import Op, PowerCut, RecordingDisk
from tests.crash.nursery import Nursery

from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Partition, Topic
from millstream.stores.sqlite_file import SqliteFile

ONE_PARTITION = Topic(name="made", partitions=1)


@dataclass
class Verdict:
    """What all the power cuts of one trace came to."""

    cuts: int = 0
    lost: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])


# A publisher


def envelope(value: str) -> Envelope:
    """Make an event whose id and body are the value."""
    return Envelope(id=value, source="/test", type="made", key=value[-1], time=0, data=value.encode() * 40, topic="made")


async def publish(broker: SqliteBroker, disk: RecordingDisk, values: list[str]) -> None:
    """Publish some events, and mark in the trace that they were acknowledged."""
    results = await broker.publish([envelope(value) for value in values])
    assert all(result is None for result in results)
    for value in values:
        disk.mark(value)


async def busy(folder: Path, disk: RecordingDisk, synchronous: str) -> None:
    """Publish one by one, in batches and from many at once, with checkpoints in between."""
    file = SqliteFile(folder / "b.db", synchronous=synchronous, vfs=disk.name)
    async with SqliteBroker(file) as broker:
        await file.write(lambda connection: connection.execute("pragma wal_autocheckpoint=12").fetchall())
        await broker.declare([ONE_PARTITION], [])
        for n in range(10):
            await publish(broker, disk, [f"single-{n}"])
        for n in range(3):
            await publish(broker, disk, [f"batch-{n}-{i}" for i in range(20)])
        async with asyncio.TaskGroup() as tasks:
            for n in range(20):
                tasks.create_task(publish(broker, disk, [f"many-{n}"]))
        for n in range(10, 15):
            await publish(broker, disk, [f"single-{n}"])


async def found(path: Path) -> tuple[str, list[str]]:
    """Open a file as it was left, and give the integrity check's word and the events that are there."""
    connection = apsw.Connection(str(path))
    ((verdict,),) = connection.execute("pragma integrity_check").fetchall()
    connection.close()
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([ONE_PARTITION], [])
        deliveries = await broker.read(Partition("made", 0), 0, 10_000)
        return str(verdict), [delivery.envelope.id for delivery in deliveries if delivery.envelope]


def halves(values: Iterable[str]) -> list[str]:
    """Name the batches of which some events are there and others not."""
    batches: dict[str, int] = {}
    for value in values:
        if value.startswith("batch"):
            name = value.rpartition("-")[0]
            batches[name] = batches.get(name, 0) + 1
    return [name for name, count in batches.items() if count != 20]


async def cut_everywhere(live: Path, left: Path, trace: Sequence[Op], chance: random.Random) -> Verdict:
    """Cut the power before, between and after all operations; look at what each cut leaves."""
    verdict = Verdict()
    power = PowerCut(live)
    for at, op in enumerate(trace):
        power.go_on(op)
        for outcome in power.outcomes(chance):
            power.leave(outcome, left)
            integrity, values = await found(left / "b.db")
            verdict.cuts += 1
            where = f"after operation {at} ({op.kind} {Path(op.file).name}), {len(outcome)} unsynced kept"
            verdict.lost += [f"{value} {where}" for value in set(power.marks) - set(values)]
            singles = [int(value.rpartition("-")[2]) for value in values if value.startswith("single")]
            if integrity != "ok" or halves(values) or singles != list(range(len(singles))):
                verdict.broken.append(f"{where}: {integrity}, half written {halves(values)}, in order {singles}")
    return verdict


def cut_a_publisher(folder: Path, chance: random.Random, synchronous: str = "FULL") -> Verdict:
    """Record a publisher, and cut its power at every moment."""
    live, left = folder / "live", folder / "left"
    live.mkdir()
    left.mkdir()
    disk = RecordingDisk()
    try:
        asyncio.run(busy(live, disk, synchronous))
    finally:
        disk.unregister()
    return asyncio.run(cut_everywhere(live, left, disk.trace, chance))


# A worker


def cut_a_worker(
    folder: Path, nursery: Nursery, files: str, cuts: int, chance: random.Random, *, synchronous: str = "FULL"
) -> Verdict:
    """Record a worker with retries, dead letters and a relay; cut its power at some moments, and let a new one go on.

    Everything that was published before must have its effect, once and in order, whatever the disk had got of the work.
    It ends with the first cut that shows otherwise.
    """
    template, live = folder / "template", folder / "live"
    template.mkdir()
    _child(nursery, template, "prepare", TROUBLES)
    shutil.copytree(template, live)
    _child(nursery, live, "work_recorded", files, synchronous)
    trace = msgspec.msgpack.decode((live / "trace").read_bytes(), type=list[Op])
    moments = set(chance.sample(range(len(trace)), min(cuts, len(trace))))
    if synchronous != "FULL":
        # The promise is known to be broken while the files are closed: one is in order before the other.
        moments = set(range(len(trace) - cuts, len(trace)))
    verdict = Verdict()
    power = PowerCut(live)
    for path in template.glob("*.db*"):
        if path.is_file():
            power.begin_with(str(live / path.name), path.read_bytes())
    for at, op in enumerate(trace):
        power.go_on(op)
        if at in moments and not verdict.broken:
            outcome = chance.choice(power.outcomes(chance)) if synchronous == "FULL" else ()
            left = shutil.copytree(template, folder / f"cut-{at}")
            power.leave(outcome, left)
            (left / "books.journal").write_text("".join(power.marks))
            verdict.cuts += 1
            code = nursery.run(f"{SERVICES}:recover", left, files, log=left / "output")
            wrong = [f"{v.kind}: {v.text}" for v in check_work(left)] if code == 0 else [f"the recovery ended with {code}"]
            verdict.broken += [f"after operation {at} ({op.kind} {Path(op.file).name}), {len(outcome)} kept: {text}" for text in wrong]
            if not wrong:
                shutil.rmtree(left)
    return verdict


def _child(nursery: Nursery, folder: Path, target: str, *args: object) -> None:
    code = nursery.run(f"{SERVICES}:{target}", folder, *args, log=folder / "output")
    assert code == 0, (folder / "output").read_text()
