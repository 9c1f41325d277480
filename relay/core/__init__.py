"""Decisions: small state machines as tables. No socket, clock, randomness, loop or logging in here."""
