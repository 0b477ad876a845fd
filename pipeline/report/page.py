"""reports/index.html: all that the report says on one page, which asks nothing of any other place.

It holds seconds, so it lies beside what DVC watches, as cost.md does.
"""

import io
import json
import posixpath
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from PIL import Image

from pipeline.report.pareto_plot import LOOKS, Trilemma, plots

PAGE = "index.html"
WIDE = 800  # pixels of a figure whose text would be too small on a phone
TEMPLATES = Path(__file__).parent / "templates"


def write_page(
    reports: Path, files: Sequence[str], trilemmas: Mapping[str, Trilemma], chains: Mapping[str, Any], name: str
) -> Path:
    """files: Markdown and CSV below `reports`, in the order of the page; trilemmas: by title; chains: `page_chains`."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    panels = [list(plots(trilemma)) for trilemma in trilemmas.values()]
    script, boxes = components([panel for row in panels for panel in row]) if panels else ("", ())
    following = iter(boxes)
    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("page.html")
    page = template.render(
        name=name,
        texts={file: _html(reports, file) for file in files if file.endswith(".md")},
        tables={file: _table(reports / file) for file in files if file.endswith(".csv")},
        plots={
            title: ([next(following) for _ in row], zip(found.entries, found.standings), found)
            for (title, found), row in zip(trilemmas.items(), panels)
        },
        looks=LOOKS,
        library=Resources(mode="inline", components=["bokeh"]).render_js() if panels else "",
        script=script,
        chains=json.dumps(chains).replace("<", "\\u003c"),  # so that no value can end the script it stands in
    )
    (reports / PAGE).write_text(page)
    return reports / PAGE


def _html(reports: Path, file: str) -> str:
    """With its pictures inside it; what it links to is a part of the same page."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse((reports / file).read_text())
    for part in [child for token in tokens for child in token.children or []]:
        if part.type == "image":
            part.attrs |= _embedded(reports / posixpath.dirname(file) / str(part.attrs["src"]))
        if part.type == "link_open":
            part.attrs["href"] = "#" + posixpath.normpath(
                posixpath.join(posixpath.dirname(file), str(part.attrs["href"]))
            )
    return _scrolling(parser.renderer.render(tokens, parser.options, {}))


def _embedded(picture: Path) -> dict[str, str]:
    """The same pixels, in a third of the bytes of a PNG; figures may be wider than a phone."""
    packed = io.BytesIO()
    with Image.open(picture) as image:
        image.save(packed, "WEBP", lossless=True, method=2)
        kind = "figure" if image.width > WIDE else "picture"
    return {"src": f"data:image/webp;base64,{b64encode(packed.getvalue()).decode()}", "class": kind}


def _table(file: Path) -> str:
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    return _scrolling(rows.to_html(index=False, border=0))


def _scrolling(html: str) -> str:
    """Tables that are wider than the page move inside it."""
    opened = '<div class="wide" tabindex="0">'
    return html.replace("<table", f"{opened}<table").replace("</table>", "</table></div>")
