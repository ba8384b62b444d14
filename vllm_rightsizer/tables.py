"""Tables for people: on a terminal as wide as that, into a file as wide as their columns want."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from vllm_rightsizer.output import write_out


def table(*columns: str, title: str | None = None) -> Table:
    """Without lines; long cells are folded."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold", justify="left")
    return made


def show(draw: Callable[[Console], None], width_without_terminal: int) -> None:
    """Print what `draw` draws. Raises `UserError` where there is no room for it."""
    console = Console()
    if console.is_terminal:
        draw(console)
        return
    write_out(drawn(draw, width_without_terminal, console))


def drawn(draw: Callable[[Console], None], width: int, console: Console) -> str:
    """What `draw` draws within `width`, in the colours that `console` has."""
    written = io.StringIO()
    draw(Console(file=written, width=width, force_terminal=console.is_terminal))
    # Columns are filled up with blanks, which nobody wants in a file, and which a terminal would wrap.
    return "".join(f"{line.rstrip()}\n" for line in written.getvalue().rstrip().splitlines())
