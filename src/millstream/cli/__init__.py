"""cli of Millstream; see ARCHITECTURE.md."""
