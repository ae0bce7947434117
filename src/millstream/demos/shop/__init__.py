"""The shop: an event-driven system of separate processes, and the proof that it loses nothing."""

from millstream.demos.shop.options import DemoOptions

__all__ = ["DemoOptions", "demo", "prove"]

# The supervisor is imported late: each service is a process of this package too, and starts sooner without it.


def demo(options: DemoOptions) -> int:
    """Run the shop for people; without a terminal it ends by itself. The exit code is the proof's verdict."""
    from millstream.demos.shop.supervisor import run

    return run(options, faults=options.prove)


def prove(options: DemoOptions) -> int:
    """Run the shop under faults without anybody watching, and print the proof."""
    from millstream.demos.shop.supervisor import run

    return run(options, faults=True)
