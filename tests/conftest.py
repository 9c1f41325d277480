"""For all tests: no example of Hypothesis is timed; machines are noisy, and speed is a benchmark."""

from hypothesis import settings

settings.register_profile("relay", deadline=None)
settings.load_profile("relay")
