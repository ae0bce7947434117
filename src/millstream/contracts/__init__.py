"""Values and pure functions: what users declare and what travels."""
