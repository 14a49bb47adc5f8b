"""How many examples a property is tried with: few in `make test`, all of them in `make test-all`."""

from hypothesis import HealthCheck, settings

QUICK, THOROUGH = "quick", "thorough"
_WHOLE = 100
"""Examples of a property that names no number, in the thorough run."""
_PLAIN = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
"""A crowded machine is slow, and right all the same; examples share a fixture where that does no harm."""


def register_profiles() -> None:
    """The quick profile holds unless `--hypothesis-profile=thorough` is given."""
    settings.register_profile(QUICK, _PLAIN, max_examples=_WHOLE // 5)
    settings.register_profile(THOROUGH, _PLAIN, max_examples=_WHOLE)
    settings.load_profile(QUICK)


def examples(whole: int) -> settings:
    """Set the number of examples of the thorough run; the quick run takes its part of them."""
    return settings(max_examples=max(1, whole * settings().max_examples // _WHOLE))
