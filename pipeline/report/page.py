"""reports/index.html: the complete report in one file, which loads nothing from elsewhere.

Like cost.md it contains seconds, which differ from run to run, so it is no output of a DVC stage.
"""

import io
import json
import posixpath
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from PIL import Image

from pipeline.report.pareto_plot import LOOKS, Trilemma, plots
from pipeline.store.files import write_file

PAGE = "index.html"
FIGURE_WIDTH = 800  # pixels; the text of wider images would be too small on a phone
TEMPLATES = Path(__file__).parent / "templates"


def write_page(
    reports: Path,
    answers: str,
    parts: Mapping[str, Mapping[str, str]],
    tables: Sequence[str],
    trilemmas: Mapping[str, Trilemma],
    lineage: Mapping[str, Any],
    name: str,
) -> Path:
    """answers: Markdown of the first screen; parts: Markdown by the file that it is in, by the title of a part.

    tables: CSV files below `reports`; trilemmas: by title; lineage: `page_lineage`.
    """
    panels = [list(plots(trilemma)) for trilemma in trilemmas.values()]
    script, boxes = components([panel for row in panels for panel in row]) if panels else ("", ())
    following = iter(boxes)
    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("page.html")
    page = template.render(
        name=name,
        answers=_html(reports, "README.md", answers),
        parts={
            title: {file: _html(reports, file, text) for file, text in texts.items()}
            for title, texts in parts.items()
            if texts
        },
        tables={file: _table(reports / file) for file in tables},
        plots={
            title: ([next(following) for _ in row], zip(shown.entries, shown.names, shown.standings), shown)
            for (title, shown), row in zip(trilemmas.items(), panels)
        },
        looks=LOOKS,
        library=Resources(mode="inline", components=["bokeh"]).render_js() if panels else "",
        script=script,
        lineage=json.dumps(lineage).replace("<", "\\u003c"),  # no value can end the script element
    )
    write_file(reports / PAGE, page)
    return reports / PAGE


def _html(reports: Path, file: str, text: str) -> str:
    """With its images embedded; its links lead to parts of the same page. file: that the text is in."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    folder = posixpath.dirname(file)
    for part in [child for token in tokens for child in token.children or []]:
        if part.type == "image":
            part.attrs |= _embedded(reports / folder / str(part.attrs["src"]))
        if part.type == "link_open":
            part.attrs["href"] = f"#{posixpath.normpath(posixpath.join(folder, str(part.attrs['href'])))}"
    return _scrolling(parser.renderer.render(tokens, parser.options, {}))


def _embedded(picture: Path) -> dict[str, str]:
    """The same pixels in a third of a PNG's bytes; figures may be wider than a phone."""
    data = io.BytesIO()
    with Image.open(picture, formats=["PNG"]) as image:
        image.save(data, "WEBP", lossless=True, method=2)
        kind = "figure" if image.width > FIGURE_WIDTH else "picture"
    return {"src": f"data:image/webp;base64,{b64encode(data.getvalue()).decode()}", "class": kind}


def _table(file: Path) -> str:
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    return _scrolling(rows.to_html(index=False, border=0))


def _scrolling(html: str) -> str:
    """Tables that are wider than the page scroll sideways."""
    return html.replace("<table", '<div class="wide" tabindex="0"><table').replace("</table>", "</table></div>")
