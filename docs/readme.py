"""Write README.md from nbs/index.ipynb: what its page shows, as Markdown. Pictures go to
docs/images/."""

import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbdev.config import get_config

NOTE = "<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook. -->\n\n"
IMAGES = "docs/images"


def shown(cell):
    "Is the cell on the page? Takes the `#|` lines off it."
    options = re.match(r"(\s*#\|.*\n?)*", cell.source)[0]
    cell.source = cell.source[len(options) :]
    hidden = cell.cell_type == "raw" or re.search(r"#\|\s*hide\b", options)
    return cell.source.strip() and not hidden


def from_the_root(source, folder):
    "Markdown whose links are relative to `folder`, as seen from above it."
    return re.sub(r"\]\((?!\w+:|#|/)([^)\s]+)\)", rf"]({folder}/\1)", source)


def main():
    settings = get_config(path=Path(__file__).resolve().parent)
    root = settings.config_path
    index = settings.nbs_path / settings.readme_nb
    if not index.exists():
        sys.exit(f"{index.relative_to(root)} is missing: README.md is made from it")
    nb = nbformat.read(index, as_version=4)
    nb.metadata.language_info = {"name": "python"}  # for the fences around code
    nb.cells = [cell for cell in nb.cells if shown(cell)]
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = from_the_root(cell.source, settings.nbs_path.name)
    where = {"output_files_dir": IMAGES, "unique_key": "readme"}
    text, resources = MarkdownExporter().from_notebook_node(nb, where)
    shutil.rmtree(root / IMAGES, ignore_errors=True)
    for name, picture in resources["outputs"].items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    (root / "README.md").write_text(f"{NOTE}{text}\n", encoding="utf-8")
    print("README.md is made from nbs/index.ipynb")


if __name__ == "__main__":
    main()
