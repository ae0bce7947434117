"""Millstream: event-driven Python systems that you can see, replay and prove."""
