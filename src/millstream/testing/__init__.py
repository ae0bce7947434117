"""testing of Millstream; see ARCHITECTURE.md."""
