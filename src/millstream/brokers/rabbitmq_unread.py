"""What no queue takes: events that RabbitMQ drops, counted, and the groups that should have had them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Dropped
from millstream.core.facts import is_internal

log = logging.getLogger("millstream.rabbitmq")

#: Gives, for ways to topics, the groups that read there: each with its queue for what goes that way where it is missing, else empty.
Readers = Callable[[Sequence[tuple[str, str]]], Awaitable[Sequence[Mapping[str, str]]]]


class _Route:
    """One way to a topic that ends nowhere."""

    def __init__(self) -> None:
        self.back = 0
        """How many came back and are not confirmed yet."""
        self.lost = 0
        self.known = False
        """Whether it was looked whose they are;"""
        self.missing: Mapping[str, str] = {}
        """and of these groups they are, which miss these queues."""


class RabbitUnread:
    """Counts what comes back for want of a queue, until something is taken again.

    The first that comes back has it looked up whether a group should have had it: that is
    a warning, and otherwise a topic that nobody reads yet.
    """

    def __init__(self, name: str, readers: Readers) -> None:
        self._name = name
        self._readers = readers
        self.routes: dict[tuple[str, str], _Route] = {}
        """Those that end nowhere; as long as there is none, nobody has to be told what is confirmed."""
        self._told: set[str] = set()
        self._unknown: dict[tuple[str, str], _Route] = {}
        """Those of which it is to be looked up whose they are."""
        self._looking: asyncio.Task[None] | None = None

    def came_back(self, topic: str, route: str) -> None:
        """No queue was there for an event; the server confirms it next."""
        if not topic or is_internal(topic):
            return
        found = self.routes.get((topic, route))
        if found is None:
            found = self.routes[topic, route] = _Route()
        found.back += 1
        if not found.known:
            found.known = True
            self._unknown[topic, route] = found
            if self._looking is None:
                self._looking = asyncio.get_running_loop().create_task(self._look())

    def confirmed(self, topic: str, route: str) -> None:
        """An event is done with: it was dropped, or this way leads somewhere again."""
        found = self.routes.get((topic, route))
        if found is None:
            return
        if found.back:
            found.back -= 1
            found.lost += 1
        else:
            del self.routes[topic, route]

    def in_doubt(self) -> None:
        """What is not confirmed is published again, and comes back again."""
        for found in self.routes.values():
            found.back = 0

    def dropped(self) -> list[Dropped]:
        """What nobody gets at the moment."""
        unread: Counter[str] = Counter()
        lost: dict[tuple[str, str], Counter[str]] = {}
        for (topic, _), found in self.routes.items():
            for group, queue in found.missing.items():
                lost.setdefault((topic, group), Counter())[queue] += found.lost
            if not found.missing:
                unread[topic] += found.lost
        return [
            *(Dropped(topic, count) for topic, count in unread.items()),
            *(Dropped(topic, sum(queues.values()), self._trouble(topic, group, queues)) for (topic, group), queues in lost.items()),
        ]

    def _trouble(self, topic: str, group: str, queues: Counter[str]) -> str:
        first, *others = queues
        more = f" (and {len(others)} more)" if others else ""
        return (
            f"group {group!r} has lost {sum(queues.values())} events that were published to the topic {topic} here: its queue {first!r}"
            f"{more} is not on {self._name} any more. Find out who deleted it; the service's next start declares it anew."
        )

    async def close(self) -> None:
        """Look no further."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        """Find whose they are, of all that came back meanwhile at once."""
        while self._unknown:
            routes, self._unknown = self._unknown, {}
            try:
                readers = await self._readers(list(routes))
            except MillstreamError as error:
                # The next one that comes back has it looked up again.
                for found in (*routes.values(), *self._unknown.values()):
                    found.known = False
                self._unknown = {}
                log.info("%s: events came back that no queue took, and whose they were is not known: %s", self._name, error)
                break
            for (topic, route), mine in zip(routes, readers, strict=True):
                self._found(topic, route, routes[topic, route], mine)
        self._looking = None

    def _found(self, topic: str, route: str, found: _Route, readers: Mapping[str, str]) -> None:
        found.missing = {group: queue for group, queue in readers.items() if queue}
        for group, queue in found.missing.items():
            log.warning(
                "group %s: its queue %s is not on %s any more, and what is published to the topic %s is lost for it. Find out who deleted "
                "it; the service's next start declares it anew.",
                group, queue, self._name, topic,
            )  # fmt: skip
        if readers and not found.missing:
            # They came meanwhile, or their queues are bound now.
            self.routes.pop((topic, route), None)
        elif not readers and topic not in self._told:
            self._told.add(topic)
            log.info("%s: no group reads the topic %s yet, so what is published to it goes nowhere", self._name, topic)
