"""A Prometheus server with the shipped configuration, in which all durations are shorter."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from ..conftest import eventually, missing_server
from .ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
# In the tested copy of the alerts every duration is divided by this: 10m becomes 6 s.
SPEED_UP = 100
SCRAPE = "500ms"

_UNITS = {"s": 1, "m": 60, "h": 3600}


class Prometheus:
    """A client of the HTTP API at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=10)

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **params: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=params)
        body = answer.json()
        assert body["status"] == "success", f"{params}: {body.get('error')}"
        return body["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the current value of each series."""
        found = self.get("query", query=expression)
        assert found["resultType"] == "vector", expression
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def value(self, expression: str) -> float | None:
        """Return the value of the only series, or None if there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def targets(self) -> dict[str, str]:
        """Return the health of each job's target, with the reason if it is down."""
        active = self.get("targets")["activeTargets"]
        return {
            target["labels"]["job"]: " ".join([target["health"], target["lastError"]]).strip() for target in active
        }

    async def scrapes(self, jobs: set[str], within: float = 30.0) -> None:
        """Wait until exactly these jobs are scraped and all of them are up."""
        found: dict[str, str] = {}

        def is_up() -> bool:
            # While it starts, Prometheus answers without JSON or not at all.
            with suppress(httpx.HTTPError, ValueError):
                found.update(self.targets())
            return found == dict.fromkeys(jobs, "up")

        try:
            await eventually(is_up, within)
        except AssertionError:
            raise AssertionError(f"Prometheus scrapes {found}, not {jobs}") from None

    def firing(self) -> set[str]:
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def fires(self, alert: str, within: float = 30.0) -> dict[str, Any]:
        """Wait until the alert fires, and return it."""
        await eventually(lambda: alert in self.firing(), within, f"{alert} does not fire, but {self.firing()}")
        alerts = self.get("alerts")["alerts"]
        found: dict[str, Any] = next(found for found in alerts if found["labels"]["alertname"] == alert)
        return found

    async def is_silent(self, within: float = 30.0) -> None:
        await eventually(lambda: not self.firing(), within, f"{self.firing()} fire on")


def scaled(rules: str) -> str:
    """Return the rules with every `for:`, range and offset divided by SPEED_UP."""

    def shorter(match: re.Match[str]) -> str:
        return f"{match[1]}{int(match[2]) * _UNITS[match[3]] * 1000 // SPEED_UP}ms"

    return re.sub(r"(for: |\[|offset )(\d+)([smh])\b", shorter, rules)


def _local(config: dict[str, Any], ports: Mapping[str, int]) -> dict[str, Any]:
    """Replace the names of the services by ports of this machine. Services without a port are left out."""
    config["global"] = {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE}
    kept = []
    for job in config["scrape_configs"]:
        # A name that has several replicas in production has one here.
        names = [name for found in job.pop("dns_sd_configs", []) for name in found["names"]]
        names += [target.split(":")[0] for found in job.get("static_configs", []) for target in found["targets"]]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[name]}" for name in names if name in ports]}]
        kept.append(job)
    config["scrape_configs"] = kept
    return config


@contextmanager
def prometheus(folder: Path, ports: Mapping[str, int]) -> Iterator[Prometheus]:
    """Run Prometheus while the block runs. ports: by the names of the services in Compose."""
    binary = shutil.which("prometheus")
    if binary is None:
        missing_server("prometheus")
        raise AssertionError
    folder.mkdir()
    config = _local(yaml.safe_load((DEPLOY / "prometheus.yml").read_text()), ports)
    (folder / "prometheus.yml").write_text(json.dumps(config))
    (folder / "alerts.yml").write_text(scaled((DEPLOY / "alerts.yml").read_text()))
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                # The kernel ends it if the tests themselves are killed.
                *("setpriv", "--pdeathsig", "KILL", binary),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                # Old values must expire sooner too.
                "--query.lookback-delta=3s",
            ],
            stdout=log,
            stderr=log,
        )
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        yield server
    finally:
        server.close()
        process.kill()
        process.wait()
