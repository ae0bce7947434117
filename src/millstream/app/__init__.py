"""The wiring: it chooses implementations, and owns tasks and the clock."""
