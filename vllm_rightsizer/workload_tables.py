"""The rows of `vllm-rightsizer list` as a table that fits its terminal, and as lines that follow each other. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from recommender.api.units import format_bytes
from vllm_rightsizer.workload_rows import Row, Total, total_of
from vllm_rightsizer.workload_states import Mood

UNKNOWN = "–"
_GAP = 2
_LONGEST_MODEL = 32
_COLORS: Mapping[Mood, str] = {"good": "green", "waiting": "yellow", "bad": "red", "off": "bright_black"}


def _nothing(_: Total) -> str:
    return ""


def _plain(_: Row) -> str:
    return ""


@dataclass(frozen=True)
class _Column:
    """`importance`: where there is no room, the column with the highest number goes first; those with 0 stay."""

    title: str
    importance: int
    cell: Callable[[Row], str]
    total: Callable[[Total], str] = _nothing
    justify: Literal["left", "right"] = "left"
    style: Callable[[Row], str] = _plain


def table_of(rows: Sequence[Row], width: int | None, *, wide: bool = False, most: int | None = None) -> Table:
    """A line for each row, `most` at the most, and one for the sum of all. Columns are left out, by what they tell,
    until the rest takes at most `width` characters; None: none is. `wide` adds some, and leaves none out. No cell is
    ever wrapped."""
    columns = _columns_of(rows, wide=wide)
    total = total_of(rows) if len(rows) > 1 else None
    lines = [_cells_of(row, columns) for row in rows[:most]]
    totals = [column.total(total) for column in columns] if total is not None else []
    texts = [[column.title for column in columns], *lines, *([totals] if totals else [])]
    widths = [max(cell_len(text[place]) for text in texts) for place in range(len(columns))]
    shown = list(range(len(columns))) if wide or width is None else _fitting(columns, widths, width)
    # A style would also be that of the blanks behind the last title, which are to be cut off.
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="none")
    for place in shown:
        table.add_column(columns[place].title, justify=columns[place].justify, no_wrap=True, overflow="ellipsis")
    for row, line in zip(rows, lines, strict=False):
        table.add_row(*(Text(line[place], columns[place].style(row)) for place in shown))
    if totals:
        table.add_row(*(Text(totals[place], "bold" if totals[place] else "") for place in shown))
    return table


class FollowingLines:
    """Lines of a table that goes on: those that come later stand below the earlier ones as long as they fit."""

    def __init__(self, *, wide: bool) -> None:
        self._wide = wide
        self._widths: list[int] = []

    def text_of(self, rows: Sequence[Row]) -> str:
        """A line for each of `rows`, the first time below the titles."""
        columns = _columns_of(rows, wide=self._wide)
        lines = [_cells_of(row, columns) for row in rows]
        if not self._widths:
            lines = [[column.title for column in columns], *lines]
            self._widths = [0] * len(columns)
        self._widths = [max(width, *(cell_len(line[n]) for line in lines)) for n, width in enumerate(self._widths)]
        padded = (
            "".join(set_cell_size(text, width + _GAP) for text, width in zip(line, self._widths, strict=True))
            for line in lines
        )
        return "".join(f"{line.rstrip()}\n" for line in padded)


def _columns_of(rows: Sequence[Row], *, wide: bool) -> list[_Column]:
    model = _Column("model", 9, _model if wide else _end_of_model)
    return [_workload_column(rows), _REPLICAS, model, _POLICY, *_COLUMNS, *(_WIDE_COLUMNS if wide else ())]


def _cells_of(row: Row, columns: Sequence[_Column]) -> list[str]:
    return [_printable(column.cell(row)) for column in columns]


def _fitting(columns: Sequence[_Column], widths: Sequence[int], width: int) -> list[int]:
    """The places of the columns for which there is room."""
    shown = list(range(len(columns)))
    for place in sorted(shown, key=lambda place: columns[place].importance, reverse=True):
        if sum(widths[one] for one in shown) + _GAP * (len(shown) - 1) <= width or not columns[place].importance:
            break
        shown.remove(place)
    return shown


def _workload_column(rows: Sequence[Row]) -> _Column:
    """Names that several rows have are told apart by kind and container."""
    named = Counter(row.name for row in rows)
    return _Column(
        "workload",
        0,
        lambda row: str(row.key) if named[row.name] > 1 else row.name,
        lambda total: f"all {total.workloads}",
    )


def _bytes(size: int | None) -> str:
    return UNKNOWN if size is None else format_bytes(size)


def _saving(found: Row | Total) -> str:
    if found.saved_bytes is None:
        return UNKNOWN
    share = found.saved_share
    return format_bytes(found.saved_bytes) + (f" ({share:.0%})" if share is not None else "")


def _saving_style(row: Row) -> str:
    return "green" if row.saved_bytes and row.saved_bytes > 0 else ""


def _hit_rates(row: Row) -> str:
    if row.hit_rate is None and row.predicted_hit_rate is None:
        return UNKNOWN
    return f"{_rate(row.hit_rate)} → {_rate(row.predicted_hit_rate)}"


def _rate(rate: float | None) -> str:
    return UNKNOWN if rate is None else f"{rate:.1%}"


def _model(row: Row) -> str:
    return row.model or UNKNOWN


def _end_of_model(row: Row) -> str:
    """Of a long one the end, which tells more than the folder that it lies in."""
    model = _printable(_model(row))
    if cell_len(model) <= _LONGEST_MODEL:
        return model
    # Some characters are two cells wide.
    end = model[-_LONGEST_MODEL:]
    while cell_len(end) >= _LONGEST_MODEL:
        end = end[1:]
    return f"…{end}"


def _worth(found: Row | Total) -> str:
    return UNKNOWN if found.bankable_per_month is None else f"{found.bankable_per_month:.2f} {found.currency}"


def _printable(text: str) -> str:
    """A model is called what its pod says: nothing of that is to steer a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else str(number)


_REPLICAS = _Column("replicas", 6, lambda row: _count(row.replicas), lambda total: _count(total.replicas), "right")
_POLICY = _Column("policy", 8, lambda row: row.policy or UNKNOWN)
_COLUMNS = (
    _Column(
        "allocated", 4, lambda row: _bytes(row.allocated_bytes), lambda total: _bytes(total.allocated_bytes), "right"
    ),
    _Column("used", 5, lambda row: _bytes(row.used_bytes), lambda total: _bytes(total.used_bytes), "right"),
    _Column(
        "recommended",
        1,
        lambda row: _bytes(row.recommended_bytes),
        lambda total: _bytes(total.recommended_bytes),
        "right",
    ),
    _Column("saving", 3, _saving, _saving, "right", _saving_style),
    _Column("hit rate", 7, _hit_rates, justify="right"),
    _Column("state", 2, lambda row: row.state.words, style=lambda row: _COLORS[row.state.mood]),
)
_WIDE_COLUMNS = (
    _Column("kind", 9, lambda row: row.key.workload.kind),
    _Column("container", 9, lambda row: row.key.container),
    _Column("GPUs", 9, lambda row: _count(row.gpus), lambda total: _count(total.gpus), "right"),
    _Column("KV cache", 9, lambda row: f"{_bytes(row.kv_bytes)} → {_bytes(row.recommended_kv_bytes)}", justify="right"),
    _Column("decided by", 9, lambda row: row.bound_by or UNKNOWN),
    _Column("worth a month", 9, _worth, _worth, "right"),
    _Column("why", 9, lambda row: row.state.message),
)
