"""relay: carries end-to-end encrypted voice between the people of a call, and can never open it."""

__version__ = "0.1.0"
