"""Example systems, to be run, broken and proven."""
