"""`vllm-rightsizer list --watch`: on a terminal a table that stays true, elsewhere a line for each change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from recommender.api.recommendations import VLLMRecommendation
from recommender.keys import WorkloadKey
from vllm_rightsizer.following import Look, looks
from vllm_rightsizer.listing import hint_for, rows_in
from vllm_rightsizer.output import csv_of, write_out, yaml_of
from vllm_rightsizer.reading import Source, read_recommendations
from vllm_rightsizer.reading_options import Color, Output, SortColumn
from vllm_rightsizer.tables import Paper, drawn
from vllm_rightsizer.workload_rows import Row, sorted_by
from vllm_rightsizer.workload_states import State
from vllm_rightsizer.workload_tables import FollowingLines, table_of

_BESIDE_ROWS = 4
"""Lines of the screen that are no rows: the titles, the sum, what is left out, and where the cursor stands."""
_ENDED_BY_SIGTERM = 128 + signal.SIGTERM
_REMOVED = State("removed", "off", "Removed", "its recommendation was deleted")


def watch_list(source: Source, namespace: str | None, sort: SortColumn, output: Output, color: Color) -> None:
    """Until it is interrupted. Raises as `print_list`."""
    # What cannot be read at all is said as elsewhere; a watch would go on trying.
    raws = read_recommendations(source, namespace).list(VLLMRecommendation.KIND, namespace)
    hint = "" if raws else hint_for(source, namespace)
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal and output.is_table:
        work = _on_screen(looks(source, namespace), sort, hint, Paper.of(color), wide=output is Output.WIDE)
    else:
        if hint:
            print(hint, file=sys.stderr)
        work = _line_by_line(looks(source, namespace), sort, output)
    asyncio.run(_until_sigterm(work))


async def _until_sigterm(work: Coroutine[None, None, None]) -> None:
    """A signal is no reason to leave a terminal without its cursor."""
    task, ended = asyncio.ensure_future(work), asyncio.Event()

    def end() -> None:
        ended.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    try:
        await task
    except asyncio.CancelledError:
        if not ended.is_set():
            raise
        raise SystemExit(_ENDED_BY_SIGTERM) from None


async def _on_screen(
    seen: AsyncGenerator[Look, None], sort: SortColumn, hint: str, paper: Paper, *, wide: bool
) -> None:
    console = Console(color_system=paper.colors, no_color=paper.without_hues)
    shown: object = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        async with contextlib.aclosing(seen) as following:
            async for look in following:
                # A terminal that was made larger or smaller is drawn on anew.
                size = (console.size.width, console.size.height)
                if (look, size) != shown:
                    shown = (look, size)
                    live.update(screen_of(look, sort, hint, size, paper, wide=wide), refresh=True)


def screen_of(
    look: Look, sort: SortColumn, hint: str, size: tuple[int, int], paper: Paper, *, wide: bool = False
) -> RenderableType:
    """What a terminal of `size` columns and lines shows; `hint` where nothing is recommended."""
    width, height = size
    found, faults = rows_in(look.raws)
    said = [f"what is shown may be old: {look.trouble}"] if look.trouble is not None else []
    said += [f"passed over: {fault}" for fault in faults]
    troubles = [Text(one, "red") for one in said]
    parts: list[RenderableType] = [*troubles]
    rows = sorted_by(found, sort)
    if not rows:
        return Group(*parts, Text(hint or "nothing is recommended any more"))
    taken = sum(len(one.wrap(paper.console(width), width)) for one in troubles)
    room = max(height - _BESIDE_ROWS - taken, 1)
    most = room if len(rows) > room else None
    table = table_of(rows, width, wide=wide, most=most)
    if wide:
        # What does not fit is cut off at the right, no column is made narrower.
        whole = drawn(lambda console: console.print(table), None, paper)
        parts.append(Text.from_ansi(whole, no_wrap=True, overflow="crop"))
    else:
        parts.append(table)
    if most is not None:
        parts.append(Text(f"and {len(rows) - most} more, for which there is no room: choose with -n and --sort", "dim"))
    return Group(*parts)


async def _line_by_line(seen: AsyncGenerator[Look, None], sort: SortColumn, output: Output) -> None:
    lines = Lines(output)
    before: Mapping[WorkloadKey, Row] = {}
    last, complained = Look(()), set[str]()
    async with contextlib.aclosing(seen) as following:
        async for look in following:
            if look.trouble not in (None, last.trouble):
                print(f"what is shown may be old: {look.trouble}", file=sys.stderr)
            if look.raws != last.raws:
                found, faults = rows_in(look.raws)
                for fault in faults:
                    if fault not in complained:
                        print(f"passed over: {fault}", file=sys.stderr)
                complained.update(faults)
                now = {row.key: row for row in sorted_by(found, sort)}
                write_out(lines.text_of(list(changed(before, now))))
                before = now
            last = look


def changed(before: Mapping[WorkloadKey, Row], now: Mapping[WorkloadKey, Row]) -> Iterator[Row]:
    """The rows that are new or others than before, and those that are gone, as removed."""
    yield from (row for key, row in now.items() if before.get(key) != row)
    yield from (replace(row, state=_REMOVED) for key, row in before.items() if key not in now)


class Lines:
    """Rows one after the other: as lines of a table or of CSV, or as documents."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._table = FollowingLines(wide=output is Output.WIDE)
        self._headed = True

    def text_of(self, rows: Sequence[Row]) -> str:
        """What is to be printed next."""
        if not rows:
            return ""
        if self._output.is_table:
            return self._table.text_of(rows)
        documents = [row.to_json() for row in rows]
        if self._output is Output.CSV:
            text = csv_of(documents, headed=self._headed)
            self._headed = False
            return text
        if self._output is Output.YAML:
            return "".join(f"---\n{yaml_of([document])}" for document in documents)
        return "".join(f"{json.dumps(document)}\n" for document in documents)
