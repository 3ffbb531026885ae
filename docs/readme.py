"""Write README.md from nbs/index.ipynb: what its page shows, as Markdown. Pictures go to docs/images/."""
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
    cell.source = cell.source[len(options):]
    return cell.cell_type != "raw" and cell.source.strip() and not re.search(r"#\|\s*hide\b", options)


def main():
    settings = get_config(path=Path(__file__).resolve().parent)
    root, index = settings.config_path, settings.nbs_path / settings.readme_nb
    if not index.exists():
        sys.exit(f"{index.relative_to(root)} is missing: README.md is made from it")
    nb = nbformat.read(index, as_version=4)
    nb.metadata.language_info = {"name": "python"}  # for the fences around code
    nb.cells = [cell for cell in nb.cells if shown(cell)]
    for cell in nb.cells:
        if cell.cell_type == "markdown":  # links are relative to nbs/, and the README stands above it
            cell.source = re.sub(r"\]\((?!\w+:|#|/)([^)\s]+)\)", rf"]({settings.nbs_path.name}/\1)", cell.source)
    text, resources = MarkdownExporter().from_notebook_node(nb, {"output_files_dir": IMAGES, "unique_key": "readme"})
    shutil.rmtree(root / IMAGES, ignore_errors=True)
    for name, picture in resources["outputs"].items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture)
    (root / "README.md").write_text(NOTE + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", encoding="utf-8")
    print("README.md is made from nbs/index.ipynb")


if __name__ == "__main__":
    main()
