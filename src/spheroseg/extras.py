"""Optional dependencies: which extra of the package installs a module that is missing."""

from importlib.util import find_spec

# The extras of pyproject.toml, by the modules that our code imports of them.
MODULES = {
    "server": ("fastapi", "httpx", "multipart", "prometheus_client", "starlette", "uvicorn", "websockets"),
    "rabbitmq": ("aio_pika",),
    "postgres": ("asyncpg",),
    "charts": ("altair", "vl_convert"),
    "parquet": ("pyarrow",),
    "codecs": ("imagecodecs",),
    "train": ("onnx", "onnxscript", "torch"),
}


def is_installed(extra: str) -> bool:
    """Return whether every module of `extra` can be imported."""
    return all(map(_can_import, MODULES[extra]))


def install_command(extra: str) -> str:
    """Return the command that installs `extra`, for a message."""
    return f"pip install 'spheroseg[{extra}]'"


def extra_of(error: ModuleNotFoundError) -> str | None:
    """Return the extra whose absence is the reason for `error`, or None if no extra has that module."""
    missing = (error.name or "").partition(".")[0]
    return next((extra for extra, modules in MODULES.items() if missing in modules), None)


def describe_missing(extra: str, needed_by: str) -> str:
    """Return the sentence for a person: what needs `extra` and how to install it."""
    return f"{needed_by} needs the extra '{extra}': {install_command(extra)}"


def _can_import(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
