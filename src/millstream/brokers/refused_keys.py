"""What is not published because an event of its key before it was refused: whoever tries again turns nothing round."""

from millstream.contracts.errors import BrokerError, MillstreamError


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
