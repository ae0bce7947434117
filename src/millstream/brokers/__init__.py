"""brokers of Millstream; see ARCHITECTURE.md."""
