"""demos of Millstream; see ARCHITECTURE.md."""
