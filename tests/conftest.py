"""What all tests share: a loaded computer never fails a test, and a failing example can be repeated."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("bench", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bench")
