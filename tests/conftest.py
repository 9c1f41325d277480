"""For all tests: Hypothesis times no example, nor its making; machines are noisy, speed is a benchmark."""

from hypothesis import HealthCheck, settings

settings.register_profile("relay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relay")
