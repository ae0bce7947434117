"""core of Millstream; see ARCHITECTURE.md."""
