"""Decisions and ports: no I/O, no clock, no tasks."""
