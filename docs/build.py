"""Render the notebooks as a site in `_docs/`. No cell is run: a page shows the outputs stored in
its notebook.

Four steps: each notebook becomes a page's notebook (pages.py), the index of the API is written
beside them (api.py), smalldocs makes HTML of them, and the pages are made to work without a
network.
"""

import html
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import yaml
from api import write_api
from execnb.nbio import write_nb
from nbdev.config import get_config
from pages import make_page, page_name
from tex import plain_formula

HERE = Path(__file__).resolve().parent
GROUPS = {  # folders of nbs/ in the order of the menu, and what it calls them
    "tutorials": "Tutorials",
    "numerics": "Numerics",
    "core": "Models",
    "nn": "Layers",
    "models": "Architectures",
    "tools": "Tools",
    "compile": "Compiled solves",
    "rooms": "What is public",
    "verification": "Verification",
    "benchmarks": "Benchmarks",
}


def group(path):
    "The part of the menu that a notebook in nbs/ stands in; None for the front page."
    if len(path.parts) == 1:
        return None
    return GROUPS.get(path.parts[0], path.parts[0].capitalize())


def write_pages(stage, settings):
    "Write a page for each notebook, and copy what lies beside them; returns the sidebar."
    sidebar = {name: [] for name in (None, *GROUPS.values())}
    for source in sorted(settings.nbs_path.rglob("*")):
        path = source.relative_to(settings.nbs_path)
        if not source.is_file() or any(part.startswith((".", "_")) for part in path.parts):
            continue
        target = stage / path
        if path.suffix == ".ipynb":
            target = stage / f"{page_name(path)}.ipynb"
            if target.exists():
                page = f"{page_name(path)}.html"
                sys.exit(f"two notebooks want the page {page}; the second is {path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".ipynb":
            shutil.copy(source, target)
            continue
        page, title = make_page(source, settings)
        write_nb(page, target)
        entry = {"text": title, "href": target.relative_to(stage).as_posix()}
        sidebar.setdefault(group(path), []).append(entry)
    front = sidebar.pop(None)
    # with an anchor it is a link: the page after the front page is the first tutorial
    api = {"text": "API", "href": f"{write_api(stage, settings)}#top"}
    sections = [{"section": name, "contents": pages} for name, pages in sidebar.items() if pages]
    return [*front, api, *sections]


def render(stage, sidebar, output):
    "The one place that knows smalldocs: make HTML of the pages in `stage`."
    try:
        import smalldocs.layout
        import smalldocs.site
    except ImportError:
        sys.exit(
            "smalldocs is missing: it needs Python 3.11 or newer "
            "(make clean, then make docs PYTHON=python3.12)"
        )

    site = yaml.safe_load((HERE / "site.yml").read_text())
    site["project"]["output-dir"] = str(output)
    site["website"]["sidebar"] = {"style": "docked", "contents": sidebar}
    (stage / "_smalldocs.yml").write_text(json.dumps(site))  # JSON is YAML too
    for name in ("style.css", "scheme.html", "open-in-colab.svg", "favicon.svg"):
        shutil.copy(HERE / name, stage)
    done = smalldocs.site.build(stage, quiet=True)
    for warning in done.warnings:
        print("smalldocs:", warning, file=sys.stderr)
    return smalldocs.layout.KATEX  # where its pages load KaTeX from


def localize(output, katex):
    "Make the pages load KaTeX from the site itself."
    shutil.copytree(HERE / "katex", output / "katex")
    for page in output.rglob("*.html"):
        up = "../" * (len(page.relative_to(output).parts) - 1)
        page.write_text(plain_menu(page.read_text().replace(katex, f"{up}katex")))


def without_tex(text):
    "A heading as smalldocs has it in menus, where formulas lost their dollars, as plain text."
    return plain_formula(text) if "\\" in text else text


def plain_menu(page):
    "Turn TeX in the table of contents of a page into plain text."

    def entry(found):
        return found[1] + html.escape(without_tex(html.unescape(found[2]))) + found[3]

    return re.sub(r'(<a [^>]*\bid="toc-[^>]*>)([^<]*)(</a>)', entry, page)


def plain_search(output):
    "Turn TeX in the headings that the search shows into plain text."
    path = output / "search.json"
    found = json.loads(path.read_text())
    for place in found:
        place["section"] = without_tex(place["section"])
    path.write_text(json.dumps(found, ensure_ascii=False))


def main():
    start = time.monotonic()
    settings = get_config(path=HERE.parent)
    output = settings.config_path / "_docs"
    with tempfile.TemporaryDirectory() as stage:
        sidebar = write_pages(Path(stage), settings)
        katex = render(Path(stage), sidebar, output)
    localize(output, katex)
    plain_search(output)
    pages = len(list(output.rglob("*.html")))
    print(
        f"{pages} pages in {output.name}/, made in {time.monotonic() - start:.0f} s. "
        f"To read them: python -m http.server -d {output.name}"
    )


if __name__ == "__main__":
    sys.exit(main())
