"""Executes the notebooks of a run, and exports them as pages that open without a network.

A page has its formulas as MathML and one plotly.js beside it, which all pages of a folder share.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from i2vae_lib.lazy import MissingLibrary, require
from i2vae_lib.places import notebooks_folder
from i2vae_lib.processes import environment, isolated
from i2vae_lib.runs import write_atomically
from i2vae_lib.stages import Say

PLOTLY, FIGURE = "plotly.min.js", "application/vnd.plotly.v1+json"
HIDDEN = "remove-cell"  # the tag of cells that pages leave out: those that only test, and the links between notebooks


@contextmanager
def kernel_settings() -> Iterator[Any]:
    """Configuration of one kernel that executes a notebook: over files, which nobody else can take, instead of TCP.

    jupyter_client picks free ports and lets go of them before the kernel takes them; another process may be faster
    ("Address already in use", and the kernel dies). Files also keep other users of the machine out. They lie in a
    folder of their own, which goes at the end: by default they would lie in the working directory, which the kernel
    may have changed. Windows has no such transport and keeps TCP.
    """
    from traitlets.config import Config

    # such a file's path has 103 characters at most, of which 25 are the kernel's
    short = "/tmp" if len(tempfile.gettempdir()) > 75 and os.name != "nt" else None
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=short) as folder:
        over_files = {"transport": "ipc", "ip": str(Path(folder) / "kernel")}
        # beside the isolation that its environment brings: IPython puts the working directory on the path by itself
        client = {"extra_arguments": ["--InteractiveShellApp.ignore_cwd=True"]}
        yield Config({"KernelManager": {} if os.name == "nt" else over_files, "NotebookClient": client})


def execute_notebooks(folder: Path, parameters: dict[str, Any], names: tuple[str, ...], say: Say) -> list[Path]:
    """Execute notebooks on a finished run with papermill; executed copies and offline HTML go into ``notebooks/``.

    A notebook that fails is a line: what teaches must not fail what works. Its copy stays, for reading. So is the lack
    of what executes notebooks.

    Returns
    -------
    list of Path
        The pages of those that did not fail.
    """
    source, written = notebooks_folder(), []
    try:
        require("executing the notebooks on this run", "papermill", "nbconvert", "ipykernel")
    except MissingLibrary as error:
        say(str(error))
        return []
    with environment({"PLOTLY_RENDERER": "plotly_mimetype", **isolated()}):
        for name in names:
            say(f"executing the notebook {name} on this run")
            executed = folder / "notebooks" / f"{name}.ipynb"
            try:
                written.append(_execute(source / executed.name, executed, parameters))
            except Exception as error:  # whatever it is: a cell's, a kernel's, the disk's
                executed.with_suffix(".html").unlink(missing_ok=True)  # an earlier one's
                say(f"a notebook failed: {executed}: {_in_a_line(error)}")
    return written


def _execute(notebook: Path, executed: Path, parameters: dict[str, Any]) -> Path:
    """The page of one notebook that was executed with these parameters."""
    import papermill

    executed.parent.mkdir(parents=True, exist_ok=True)
    with kernel_settings() as config:
        papermill.execute_notebook(
            notebook,
            executed,
            parameters=parameters,
            kernel_name="python3",
            execution_timeout=86_400,
            progress_bar=False,
            cwd=str(Path.cwd()),
            config=config,
        )
    path = executed.with_suffix(".html")
    write_page(executed, path)
    return path


def write_page(notebook: Path, path: Path) -> None:
    """Export an executed notebook as a page; ``plotly.min.js`` is written beside it if it is not there."""
    import nbconvert
    import nbformat
    from jinja2 import pass_context
    from nbconvert.filters.markdown_mistune import MarkdownWithMath
    from plotly.offline import get_plotlyjs

    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    content.cells = [cell for cell in content.cells if HIDDEN not in cell.metadata.get("tags", ())]
    drawn = [one["data"] for cell in content.cells for one in cell.get("outputs", ()) if FIGURE in one.get("data", {})]
    for data in drawn:
        data["text/html"] = _figure(data.pop(FIGURE))
        data.pop("image/png", None)
    content.metadata.pop("widgets", None)  # their manager would come from a network
    shared = path.with_name(PLOTLY)
    if drawn and not shared.is_file():
        write_atomically(shared, partial(Path.write_text, data=get_plotlyjs(), encoding="utf-8"))
    outside = ("require_js_url", "mathjax_url", "mermaid_js_url", "mermaid_layout_elk_js_url")
    exporter: Any = nbconvert.HTMLExporter(embed_images=True, **dict.fromkeys(outside, ""))  # type: ignore[no-untyped-call]
    renderer = _with_formulas()
    exporter.register_filter(
        "markdown2html", pass_context(lambda context, source: MarkdownWithMath(renderer=renderer).render(source))
    )
    page, _ = exporter.from_notebook_node(content, {"metadata": {"name": notebook.stem, "path": str(notebook.parent)}})
    page = re.sub(r'<script src="">\s*</script>', "", page)
    page = page.replace("</head>", "<style>.highlight pre { font-family: monospace }</style></head>", 1)
    page = page.replace("<head>", f'<head><script src="{PLOTLY}"></script>', 1) if drawn else page
    write_atomically(path, partial(Path.write_text, data=page, encoding="utf-8"))


def _figure(content: Any) -> str:
    """A plotly figure as HTML that uses the plotly.js of its page."""
    import plotly.io as pio

    figure = pio.from_json(json.dumps(content), skip_invalid=True)
    return str(pio.to_html(figure, include_plotlyjs=False, full_html=False))


def _with_formulas() -> Any:
    """nbconvert's renderer of Markdown, with formulas as MathML in place of what MathJax would read."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            # MathML has no numbers of equations, and what stands for them would touch the formula
            return str(convert(re.sub(r"\\tag\{(.*?)\}", r"\\qquad (\1)", body), display="block"))

        def inline_math(self, body: str) -> str:
            return str(convert(body))

        def _html_embed_images(self, html: str) -> str:
            # nbconvert also closes what a piece leaves open: an answer would stand below its fold, not in it
            return super()._html_embed_images(html) if "<img" in html else html

    return Renderer(escape=False, embed_images=True)


def _in_a_line(error: Exception) -> str:
    """An error as one line; of a cell its own error, not papermill's account of it."""
    name, said = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))
    return f"{name}: {' '.join(said.split())[:200]}".rstrip(": ")
