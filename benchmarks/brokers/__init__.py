"""What Millstream makes of real brokers, beside their clients and FastStream doing the same."""
