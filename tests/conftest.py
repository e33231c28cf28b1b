"""What every test shares: property tests that draw the same examples on every machine."""

from hypothesis import settings

settings.register_profile("seeded", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("seeded")
