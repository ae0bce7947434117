"""Measurements of Millstream beside the limits of the machine: `make bench`."""
