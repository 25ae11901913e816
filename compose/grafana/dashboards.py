"""Writes the four dashboards as JSON: `python -m compose.grafana.dashboards`, or `make dashboards`."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Panel

from compose.grafana.consumers import consumers
from compose.grafana.overview import overview
from compose.grafana.relay import relay
from compose.grafana.stores import stores

FOLDER = Path(__file__).parent / "dashboards"


def texts() -> dict[str, str]:
    """The content of every file, by its name."""
    built = {kind.__name__: kind().build() for kind in (overview, relay, consumers, stores)}
    for made in built.values():
        for number, panel in enumerate(made.panels or (), start=1):
            assert isinstance(panel, Panel)
            panel.id_val = number
    return {
        f"{name}.json": json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, made in built.items()
    }


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
