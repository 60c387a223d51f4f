"""A report as one HTML file that needs nothing else: no server, no network, no other file.

The page's own policy forbids every request and every script but the two that are in it, so even a
value that were not escaped could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from meld_duckdb.errors import ConfigError
from meld_duckdb.report.view import Chart, Report

_DRAWN = "window.vegaEmbed = vegaEmbed;"


def check_libraries() -> None:
    """Fail if what the page is made with is not installed.

    Raises:
        ConfigError: It is not; the hint names the extra.
    """
    try:
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a report needs {error.name}, which is not installed",
            hint="pip install 'meld-duckdb[report]'",
        ) from error


def render(report: Report) -> str:
    """The whole page as text."""
    import jinja2

    library, script = _library(), _file("templates", "page.js")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_file("templates", "page.html.j2"))
    return template.render(
        report=report,
        css=_raw(_file("templates", "page.css")),
        charts=_raw(_charts(report)),
        library=_raw(library),
        script=_raw(script),
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {_source(library)} {_source(script)}",
    )


@cache
def _library() -> str:
    """The charts' JavaScript: Vega, Vega-Lite and Vega-Embed; it takes seconds to put together."""
    import vl_convert

    return str(vl_convert.javascript_bundle(_DRAWN))


def _raw(text: str) -> Any:
    """Text of this package that is put into the page as it stands."""
    from markupsafe import Markup

    return Markup(text)


def _charts(report: Report) -> str:
    """All charts as JSON that cannot end the element it stands in."""
    found = [
        {"id": f"{section.anchor}-chart-{i}", "spec": _spec(chart)}
        for section in report.sections
        for i, chart in enumerate(section.charts, 1)
    ]
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _spec(chart: Chart) -> dict[str, Any]:
    """The Vega-Lite specification of a chart: its file, with data, titles, colours and scale."""
    spec: dict[str, Any] = json.loads(_file("charts", f"{chart.spec}.json"))
    spec["config"] = json.loads(_file("charts", "config.json"))
    spec["width"] = "container"
    if isinstance(spec["height"], dict):  # of a step; Vega-Lite warns of it beside such a width
        spec["height"] = spec["height"]["step"] * len({row["name"] for row in chart.rows})
    cut = [] if chart.cut is None else [{"cut": chart.cut, "label": f"from {chart.cut:.3f}"}]
    spec["datasets"] = {"rows": list(chart.rows), "cut": cut}
    encodings = [part.get("encoding", {}) for part in (spec, *spec.get("layer", ()))]
    for encoding in encodings:
        if "color" in encoding:
            encoding["color"]["scale"] = {
                "domain": list(chart.colours),
                "range": list(chart.colours.values()),
            }
    for channel, title in chart.axes.items():
        first = next(e[channel] for e in encodings if channel in e)
        first["title"] = title
        if channel == "y" and chart.logarithmic:
            first["title"] = f"{title} (logarithmic)"
            first["scale"] = {"type": "symlog"}
            first["axis"] = {"values": _powers(chart), "format": ",d"}
    return spec


def _powers(chart: Chart) -> list[int]:
    """Ticks of a logarithmic axis: 0, 1, 10, 100, ... up to the greatest count."""
    greatest = max(int(str(row.get("top", row.get("n")))) for row in chart.rows)
    return [0, *(10**i for i in range(len(str(greatest))))]


def _source(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _file(folder: str, name: str) -> str:
    return (resources.files("meld_duckdb.report") / folder / name).read_text("utf-8")
