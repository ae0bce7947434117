"""stores of Millstream; see ARCHITECTURE.md."""
