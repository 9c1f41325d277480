"""Bytes <-> values: pure functions, frozen values. No state, no time, nothing of ours but the error tree."""
