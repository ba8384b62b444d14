"""What all tests share: property tests that give the same verdict on the same commit."""

from __future__ import annotations

from hypothesis import settings

# A draw that fails once in fifty runs stops somebody else's change. `make fuzz` draws anew each time.
settings.register_profile("same-draws", derandomize=True, deadline=None)
settings.load_profile("same-draws")

# The release tests run in environments of their own: see `make matrix`.
collect_ignore = ["conformance"]
