"""What an operator sees: metrics, health, records, events, logs, and the socket that takes commands."""
