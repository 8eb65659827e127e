"""Grafana's dashboard of what operates, with what Grafana and Prometheus must be told to show it. Pure.

The dashboard (``dashboard.json`` beside this file) names metrics of ``page`` only. A test holds it to that.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

SOURCE = "scepsy-prometheus"
"""Uid of the data source."""


def dashboard() -> str:
    """The dashboard as Grafana imports it."""
    return files("executor.operate").joinpath("dashboard.json").read_text(encoding="utf-8")


def bundle(folder: Path, metrics_port: int, prometheus: str = "http://127.0.0.1:9090") -> dict[str, str]:
    """Path below ``folder`` → text: the dashboard, Grafana's provisioning folder, and Prometheus' configuration.

    The provider names the dashboard's folder by its absolute path, since Grafana knows no other.
    """
    return {
        "dashboards/operate.json": dashboard(),
        "provisioning/dashboards/scepsy.yaml": _text(
            {
                "apiVersion": 1,
                "providers": [{"name": "scepsy", "type": "file", "options": {"path": str(folder.absolute() / "dashboards")}}],
            }
        ),
        "provisioning/datasources/scepsy.yaml": _text(
            {
                "apiVersion": 1,
                "datasources": [{"name": "Scepsy", "uid": SOURCE, "type": "prometheus", "access": "proxy", "url": prometheus}],
            }
        ),
        "prometheus.yml": _text(
            {
                "global": {"scrape_interval": "15s"},
                "scrape_configs": [
                    {"job_name": "scepsy-operate", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}
                ],
            }
        ),
    }


def _text(document: dict[str, Any]) -> str:
    return str(yaml.safe_dump(document, sort_keys=False))
