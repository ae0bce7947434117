"""console of Millstream: a read model of facts, and the web console on it; see ARCHITECTURE.md."""
