"""Figures for people: medians with their range, in tables that are Markdown too."""

from collections.abc import Sequence
from statistics import median, quantiles


def percentile_99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def spread(values: Sequence[float]) -> str:
    """The median, and (least to most) where there are several."""
    middle = _digits(median(values))
    return middle if len(values) == 1 else f"{middle} ({_digits(min(values))}–{_digits(max(values))})"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (width - 1) + ":") if column else "-" * width for column, width in enumerate(widths)]
    print(f"\n**{title}**\n", line(head), line(rule), *map(line, rows), sep="\n", flush=True)
