"""What goes wrong on purpose goes wrong on each run."""

import random
from pathlib import Path

from millstream.demos.shop.faults import Injector
from millstream.demos.shop.options import Settings
from millstream.demos.shop.tables import log


async def test_two_runs_of_one_seed_publish_different_poison(tmp_path: Path) -> None:
    """A broker that removes duplicates takes what the second run publishes for something new: both ids and bodies are."""
    for _ in range(2):
        async with Injector(Settings(data=str(tmp_path)), random.Random("1/injector")) as injector:
            for _ in range(6):
                await injector.publish_poison()

    published = log(tmp_path)

    ids = [each.id for each in published if each.source == "/poisoner"]
    assert (len(set(ids)), len({each.data for each in published})) == (len(ids), 12)
    assert ids
