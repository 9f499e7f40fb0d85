"""The documentation as a site: ``make docs`` builds it from docs/, the notebooks and the docstrings, without a network.

Sources are those of the whole checkout, so that a link from one page to another works here as it does on GitHub.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent.parent))

project, author, copyright = "i2VAE-kit", "The i2VAE-kit contributors", "The i2VAE-kit contributors"
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "notebooks/*.ipynb",
    "notebooks/exercises/*.ipynb",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = ["**/.ipynb_checkpoints"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

html_theme = "furo"
html_title = "i2VAE-kit"
html_math_renderer = "mathml"
html_copy_source = False
html_extra_path = ["_root"]  # the page that leads to docs/index.html

nb_execution_mode = "off"  # they are committed executed
nb_mime_priority_overrides = [("html", "image/png", 5)]  # the picture that a notebook stores beside its plotly data
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]  # widgets: they need a kernel

autodoc_typehints = "none"  # the docstrings have shapes, dtypes and units
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def _formula(inline: bool) -> Any:
    def visit(writer: Any, node: nodes.Node) -> None:
        writer.body.append(convert(node.astext(), display="inline" if inline else "block"))
        raise nodes.SkipNode

    return visit, None


def _lower_anchors(app: Any, name: str, source: list[str]) -> None:
    """JupyterLab's anchors keep the capitals of a heading, those of pages do not."""
    if name.startswith("notebooks/"):
        links = re.compile(r"\]\(((?!https?:)[^)\s#]*)#([^)\s]+)\)")
        source[0] = links.sub(lambda found: f"]({found[1]}#{found[2].lower()})", source[0])


def setup(app: Any) -> None:
    """Formulas as MathML, which browsers draw by themselves."""
    app.connect("source-read", _lower_anchors)
    app.add_html_math_renderer("mathml", inline_renderers=_formula(True), block_renderers=_formula(False))
