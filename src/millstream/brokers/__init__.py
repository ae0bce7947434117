"""Brokers: a file for each, strangers to each other."""
