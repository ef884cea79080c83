"""Formats results: medians with their range, and Markdown tables."""

from collections.abc import Sequence
from statistics import median, quantiles


def percentile_99(values: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return quantiles(values, n=100, method="inclusive")[98]


def spread(values: Sequence[float]) -> str:
    """Format the median, with (minimum–maximum) if there are several values."""
    centre = _format(median(values))
    return centre if len(values) == 1 else f"{centre} ({_format(min(values))}–{_format(max(values))})"


def _format(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table whose columns are aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (width - 1) + ":") if column else "-" * width for column, width in enumerate(widths)]
    print(f"\n**{title}**\n", line(head), line(rule), *map(line, rows), sep="\n", flush=True)
