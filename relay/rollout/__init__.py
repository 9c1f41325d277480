"""Staged rollout: who gets the candidate, whether it is as good, what is next, and the state that says so."""
