"""Settings of the property tests: a shared machine may be slow, which is no failure."""

from hypothesis import settings

settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
