"""What took how long, told at the end of a test run and kept for whoever compares."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


@dataclass
class Timings:
    """Seconds by what took them, with what is promised for a machine that has nothing else to do."""

    noted: dict[str, tuple[list[float], float]] = field(default_factory=dict[str, tuple[list[float], float]])

    def note(self, what: str, took: list[float], *, promised: float) -> None:
        """Keep what was measured."""
        self.noted[what] = (took, promised)

    def lines(self) -> list[str]:
        """A line for each, for people."""
        return [
            f"{what:<36} {median(took) * 1000:6.0f} ms [{min(took) * 1000:.0f}-{max(took) * 1000:.0f}], promised {promised * 1000:.0f} ms"
            for what, (took, promised) in self.noted.items()
        ]

    def write(self, path: Path) -> None:
        """All of it as JSON."""
        told = {what: {"seconds": took, "median": median(took), "promised": promised} for what, (took, promised) in self.noted.items()}
        path.write_text(json.dumps({"schema": "millstream.v1.console_timings", "timings": told}, indent=2) + "\n")
