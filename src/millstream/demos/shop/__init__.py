"""The shop: an event-driven system of separate processes, and the proof that it loses nothing."""

from millstream.demos.shop.options import DemoOptions
from millstream.demos.shop.supervisor import demo, prove

__all__ = ["DemoOptions", "demo", "prove"]
