"""Tables for people: on a terminal as wide as that, into a file as wide as their columns want."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from rich.console import Console
from rich.table import Table

from vllm_rightsizer.output import write_out
from vllm_rightsizer.reading_options import Color

_UNLIMITED = 100_000
"""Characters of a line that no terminal bounds."""

_System = Literal["standard", "256", "truecolor", "windows"]


@dataclass(frozen=True)
class Paper:
    """What is drawn on: standard output. `width` in characters, None where no terminal bounds it; `colors`: in which
    way they are written, None for none."""

    width: int | None
    colors: _System | None
    without_hues: bool = False
    """NO_COLOR: bold is all that there is."""

    @classmethod
    def of(cls, color: Color) -> Paper:
        console = Console()
        width = console.width if console.is_terminal else None
        found = cast("_System | None", console.color_system)
        if color is Color.NEVER:
            return cls(width, None)
        if color is Color.ALWAYS:
            return cls(width, found or "standard")
        return cls(width, found, console.no_color)

    def console(self, width: int) -> Console:
        """One that draws into memory."""
        return Console(
            file=io.StringIO(),
            width=width,
            force_terminal=self.colors is not None,
            color_system=self.colors,
            no_color=self.without_hues,
        )


def table(*columns: str, title: str | None = None) -> Table:
    """Without lines; long cells are folded."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold", justify="left")
    return made


def show(draw: Callable[[Console], None], paper: Paper, width_without_terminal: int, *, wide: bool) -> None:
    """Print what `draw` draws; `wide`: nothing is folded. Raises `UserError` where there is no room for it."""
    write_out(drawn(draw, _UNLIMITED if wide else paper.width or width_without_terminal, paper))


def drawn(draw: Callable[[Console], None], width: int | None, paper: Paper) -> str:
    """What `draw` draws within `width`, None for as wide as it wants."""
    console = paper.console(width or _UNLIMITED)
    draw(console)
    assert isinstance(console.file, io.StringIO), "it draws into memory"
    # Columns are filled up with blanks, which nobody wants in a file, and which a terminal would wrap.
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().rstrip().splitlines())
