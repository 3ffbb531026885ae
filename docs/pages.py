"""A notebook made into a page of the site.

Hidden cells and `#|` lines go. Names in backticks become links, and so do links to other notebooks;
a collapsed callout becomes `<details>`; each exported definition gets an anchor and a link to its
source; a picture gets its size and a text. Everything else, stored outputs included, stays as it
is.
"""

import ast
import re
from pathlib import Path

from execnb.nbio import mk_cell
from figures import Place, show_figures
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor
from nbdev.showdoc import showdoc_nm
from tex import plain

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
DEFINITIONS = ast.FunctionDef, ast.ClassDef


def page_name(path):
    """Where a notebook's page is, without its ending: `tutorials/01_quickstart.ipynb` becomes
    `tutorials/quickstart`, as nbdev's links have it."""
    return re.sub(r"(^|/)\d+[a-zA-Z0-9]*_", r"\1", Path(path).with_suffix("").as_posix().lower())


def title(source):
    """Take `# Title` and the `> subtitle` below it out of a page's first text; returns both, and
    the text that is left."""
    found = re.match(r"\s*# +(.+)\n?((?:\s*> ?.*\n?)*)", source)
    subtitle = " ".join(re.findall(r"> ?(.*)", found[2]))
    return {"title": plain(found[1]), "description": subtitle}, source[found.end() :]


def link(source, site, notebook_url):
    "Make the links of a text work on the site: to notebooks, to names in backticks, to Colab."

    def to_page(found):
        return f"]({page_name(found[1])}.ipynb"

    source = re.sub(r"\]\((?!\w+:)([^)\s]+)\.ipynb", to_page, source)
    source = re.sub(
        rf"(\[!\[[^\]]*\]\(){re.escape(BADGE)}(\)\]\([^)]*\))",
        rf"\1/open-in-colab.svg\2 [Notebook]({notebook_url})",
        source,
    )
    return (NbdevLookup().linkify(source) or "").replace(f"]({site}/", "](/")


class Callouts:
    """Turns `::: {.callout-tip collapse="true" title="Solution 1"}` ... `:::`, which may span
    cells, into `<details>`."""

    def __init__(self):
        self.open = []  # for each `:::` not closed yet: is it a collapsed callout?

    def __call__(self, source):
        lines, kept = source.split("\n"), []
        while lines:
            line = lines.pop(0)
            if not (fence := re.match(r":::+\s*(.*)", line)):
                kept.append(line)
            elif not fence[1]:
                kept.append("</details>" if self.open and self.open.pop() else line)
            else:
                callout = re.match(r"\{\.callout-(\w+).*collapse=\"?true", fence[1])
                self.open.append(bool(callout))
                kept.append(self.head(callout[1], fence[1], lines) if callout else line)
        return "\n".join(kept)

    def head(self, kind, attributes, lines):
        """The first line of a collapsed callout; its name is its title, else the heading it starts
        with, else its kind."""
        named = re.search(r"title=\"([^\"]*)\"", attributes)
        heading = re.match(r"\s*#+ +(.*)", next(filter(str.strip, lines), ""))
        if heading and not named:
            while not lines.pop(0).strip():
                pass
        name = named or heading
        name = name[1] if name else kind.capitalize()
        return f'<details class="callout-{kind}"><summary>{name}</summary>\n'


def methods(node):
    "The names of the methods that a class defines; of a function none."
    if not isinstance(node, ast.ClassDef):
        return []
    return [part.name for part in node.body if isinstance(part, ast.FunctionDef)]


def definitions(source):
    """A line with the names that an exported cell defines: an anchor for each and for its methods,
    and a link to the source."""
    names = []
    urls = []
    for node in ast.parse(source).body:
        if isinstance(node, DEFINITIONS):
            name = showdoc_nm(node)
            anchors = [f"{name.lower()}.{method.lower()}" for method in methods(node)]
            anchors = "".join(f'<span id="{anchor}"></span>' for anchor in anchors)
            names.append(f'<code id="{name.lower()}">{anchors}{name}</code>')
            urls.append(NbdevLookup().code(name))
    if not names:
        return ""
    link = f'<a href="{urls[0]}">source</a>' if urls[0] else ""
    return f'<div class="definition"><span>{" ".join(names)}</span>{link}</div>'


def make_page(path, settings):
    "The notebook at `path` as a notebook that holds what its page shows, with its title in front."
    site = settings.doc_host + settings.doc_baseurl.rstrip("/")
    address = path.relative_to(settings.config_path).as_posix()
    notebook_url = f"{settings.git_url}/blob/{settings.branch}/{address}"
    callouts = Callouts()
    place = Place()
    cells = []
    front = {}
    nb = NBProcessor(path).nb  # this also takes the `#|` lines off the cells
    for cell in nb.cells:
        if "hide" in cell.directives_ or not cell.source.strip():
            continue
        if cell.cell_type == "markdown":
            place.read(cell.source)
            if not front and cell.source.lstrip().startswith("# "):
                front, cell.source = title(cell.source)
            cell.source = callouts(link(cell.source, site, notebook_url))
        elif cell.cell_type == "code":
            if "export" in cell.directives_ and (line := definitions(cell.source)):
                cells.append(mk_cell(line, "markdown"))
            show_figures(cell, place)
            # gives each line a span: style.css wraps lines, and hides the numbers
            cell.source = f"#| code-line-numbers: true\n{cell.source}"
        cells.append(cell)
    head = "---\n" + "".join(f"{key}: {value!r}\n" for key, value in front.items() if value) + "---"
    nb.cells = [mk_cell(head, "raw"), *cells]
    return nb, front.get("title", path.stem)
