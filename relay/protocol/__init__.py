"""Bytes <-> values: pure functions and frozen values. No state, no time, nothing of ours but the error tree."""
