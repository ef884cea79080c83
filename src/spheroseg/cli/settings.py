"""`spheroseg settings`: show every setting."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from spheroseg.settings import Settings, read_settings


def settings() -> None:
    """Show every setting with its value, its source and its meaning."""
    found = read_settings()
    table = Table(show_edge=False, header_style="bold")
    for column in ("variable", "value", "from", "meaning"):
        table.add_column(column, overflow="fold")
    for name, field in Settings.model_fields.items():
        source = "set" if name in found.model_fields_set else "default"
        value = "" if source == "default" and not getattr(found, name) else str(getattr(found, name))
        if not field.repr:
            value = "(hidden)"
        table.add_row(name.upper(), escape(_without_password(value)), source, escape(field.description or ""))
    Console().print(table)


def _without_password(value: str) -> str:
    try:
        return make_url(value).render_as_string(hide_password=True) if "://" in value else value
    except ArgumentError:
        return value
