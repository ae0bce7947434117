"""What is not published because an event of its key before it was refused: whoever tries again turns nothing round."""

from collections.abc import Sequence

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, MillstreamError
from millstream.core.broker import Message


class RefusedKeys:
    """The keys of which one call had something refused; false while there are none."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: set[tuple[str, str | bytes]] = set()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, topic: str, key: str | bytes | None) -> None:
        """Something of this key was refused; without one nothing follows anything."""
        if key is not None:
            self._keys.add((topic, key))

    def behind(self, topic: str, key: str | bytes | None) -> MillstreamError | None:
        """Why what has this key is not published either, if it is not."""
        if key is None or (topic, key) not in self._keys:
            return None
        return BrokerError("an event of its key before it was not published: publish both again, under the same ids")

    def check(self, topic: str, key: str | bytes | None) -> None:
        """The same, raised."""
        error = self.behind(topic, key)
        if error is not None:
            raise error


def in_order(results: list[MillstreamError | None], items: Sequence[Envelope | Message]) -> list[MillstreamError | None]:
    """What became of one call: behind an event that failed, all of its key have failed."""
    if any(results):
        refused = RefusedKeys()
        for index, item in enumerate(items):
            results[index] = results[index] or refused.behind(item.topic, item.key)
            if results[index] is not None:
                refused.add(item.topic, item.key)
    return results
