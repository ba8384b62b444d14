"""Findings as text for people, and as values of JSON types for programs. Pure."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from vllm_rightsizer.doctor.findings import Finding, Severity

WELL = "nothing found: definitions, webhook, certificates, rights, recommender, policies and plugins are well"
_COLOURS = {Severity.CRITICAL: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_NARROWEST = 40


def as_text(findings: Sequence[Finding], *, colours: bool = False, width: int | None = None) -> str:
    """One block a finding; commands stand on lines of their own, whole, to be copied."""
    if not findings:
        return f"{WELL}\n"
    out = io.StringIO()
    columns = max(_NARROWEST, width or shutil.get_terminal_size((120, 24)).columns)
    console = Console(file=out, width=columns, force_terminal=colours, highlight=False)
    for number, found in enumerate(findings):
        if number:
            console.print()
        heading = Text(f"{found.severity.name:<9}", style=_COLOURS[found.severity])
        console.print(heading.append(f"{found.name}  {found.about}", style="not bold default"))
        console.print(Text(f"  seen  {found.seen}"))
        console.print(Text(f"  why   {found.why}"))
        console.print(Text(f"  fix   {found.fix}"), soft_wrap=True)
    console.print(f"\n{_counted(findings)}")
    return out.getvalue()


def _counted(findings: Sequence[Finding]) -> str:
    counts = ((sum(one.severity is severity for one in findings), severity.name.lower()) for severity in Severity)
    return ", ".join(f"{count} {name}" for count, name in counts if count)


def documents(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [{**asdict(found), "severity": found.severity.name.lower()} for found in findings]
