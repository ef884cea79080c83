"""Walls that import-linter cannot check: which names of a package may be used where."""

import ast
from collections.abc import Iterator
from pathlib import Path

import spheroseg

PACKAGE = Path(spheroseg.__file__).parent

# Types, errors and URLs. With these nobody can build a statement.
ALLOWED_OUTSIDE_DATABASE = {
    "sqlalchemy.engine": {"URL", "make_url"},
    "sqlalchemy.exc": {
        "ArgumentError",
        "DBAPIError",
        "DataError",
        "IntegrityError",
        "SQLAlchemyError",
        "TimeoutError",
    },
    "sqlalchemy.ext.asyncio": {"AsyncConnection", "AsyncEngine"},
}


def test_only_the_database_package_builds_sql() -> None:
    offenders = [
        f"{path.relative_to(PACKAGE)} imports {name} from {module}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if PACKAGE / "database" not in path.parents
        for module, name in sqlalchemy_imports(ast.parse(path.read_text()))
        if name not in ALLOWED_OUTSIDE_DATABASE.get(module, set())
    ]
    assert offenders == []


def sqlalchemy_imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for each name that is imported from SQLAlchemy; the name is `*` for a whole module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "*") for alias in node.names if alias.name.split(".")[0] == "sqlalchemy")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
            yield from ((node.module or "", alias.name) for alias in node.names)
