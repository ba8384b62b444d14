"""What the doctor says, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from vllm_rightsizer.doctor.facts import Facts


class Severity(IntEnum):
    """CRITICAL: it does not work, or may do harm. WARNING: a part does not work. NOTE: worth knowing."""

    CRITICAL = 0
    WARNING = 1
    NOTE = 2


@dataclass(frozen=True)
class Finding:
    """`name` for programs, `about` the object, `seen` what is there, `why` what follows from it, `fix` the command."""

    name: str
    severity: Severity
    about: str
    seen: str
    why: str
    fix: str


Check = Callable[[Facts], Iterable[Finding]]


def diagnosed(facts: Facts, checks: Iterable[Check]) -> list[Finding]:
    """The most severe first; of equal ones as `checks` are ordered, causes before what follows from them."""
    found = [finding for check in checks for finding in _found_by(check, facts)]
    return sorted(found, key=lambda finding: finding.severity)


def _found_by(check: Check, facts: Facts) -> Iterator[Finding]:
    """An object that nobody has foreseen must not take what all others have found along."""
    try:
        yield from check(facts)
    except Exception as error:
        seen = f"the check has failed: {type(error).__name__}: {error}"
        why = "what it would have found is not known; this is a fault of the doctor: report it, with the bundle"
        fix = "vllm-rightsizer doctor --bundle=vllm-rightsizer-doctor.tar.gz"
        yield Finding("CheckFailed", Severity.NOTE, f"Check {check.__name__}", seen, why, fix)
