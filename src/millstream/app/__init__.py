"""app of Millstream; see ARCHITECTURE.md."""
