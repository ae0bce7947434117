"""`millstream bridge`, killed in the middle: `python -m tests.brokers.doomed_bridge SOURCE TARGET TOPIC GROUP`."""

import os
import signal
import sys
from typing import Any

from millstream.app import bridge
from millstream.app.bridge import Bridge
from millstream.cli.main import main

#: Events published, and then settled, at once; and pages that are settled before the end.
PAGE, PAGES = 25, 2


def doom() -> None:
    """Have this process killed when a page is acknowledged at the target, and the source has only heard of those before it."""
    publish = Bridge._publish
    begun: list[Any] = []

    async def publish_and_die(self: Bridge, *page: Any) -> bool:
        if not begun:
            begun.append(await self._states())
        done = await publish(self, *page)
        if self.copied.total() >= PAGES * PAGE:
            # The source hears of what is settled a moment later.
            while await self._states() == begun[0]:
                await self._clock.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Bridge._publish = publish_and_die  # type: ignore[method-assign]
    bridge.PAGE = PAGE


if __name__ == "__main__":
    doom()
    source, target, topic, group = sys.argv[1:]
    sys.exit(main(["bridge", source, target, "--topic", topic, "--group", group]))
