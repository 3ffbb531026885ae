"""Execute the quickstart, showing what it prints as it prints it, and keep what it makes in runs/quickstart/.

    python .ci/cookbook.py [NOTEBOOK]

The folder gets the executed notebook, its figures and, since the notebook saves them to $TORCHDYN_OUTPUT, the trained weights.
"""
import base64
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small: more threads only wait for each other
ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "nbs" / "tutorials" / "01_quickstart.ipynb"
SKIPPED = re.compile(r"^#\|\s*(eval:\s*false|notest|slow|cuda)\b", re.M)


class LiveClient(NotebookClient):
    "A notebook client that also shows what a cell prints, while it runs."

    def process_message(self, message, cell, cell_index):
        content = message["content"]
        if message["msg_type"] == "stream":
            print(content["text"], end="", flush=True)
        elif message["msg_type"] == "execute_result":
            print(content["data"].get("text/plain", ""), flush=True)
        return super().process_message(message, cell, cell_index)


def execute(notebook, folder):
    "Run the cells in order, with the page's headings above what they print."
    quiet = ["--log-level=ERROR"]
    client = LiveClient(notebook, kernel_name="python3", extra_arguments=quiet, coalesce_streams=True, resources={"metadata": {"path": folder}})
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type == "markdown":
                for marks, heading in re.findall(r"^(#+) +(.+)$", cell.source, re.M):
                    print(f"\n{heading}\n{'=-'[len(marks) > 1] * len(heading)}", flush=True)
            elif cell.cell_type == "code" and not SKIPPED.search(cell.source):
                client.execute_cell(cell, index)


def save_figures(notebook, output):
    "Write each picture of the notebook to a PNG file named after the heading it stands under."
    name, paths = "figure", []
    for cell in notebook.cells:
        for heading in re.findall(r"^#+ +(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else []:
            name = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
        for result in cell.get("outputs", []):
            if picture := result.get("data", {}).get("image/png"):
                paths.append(output / f"{len(paths) + 1:02}-{name}.png")
                paths[-1].write_bytes(base64.b64decode(picture))
    return paths


def main():
    source = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else QUICKSTART
    output = ROOT / "runs" / re.sub(r"^\d+_", "", source.stem)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    os.environ["TORCHDYN_OUTPUT"] = str(output)
    notebook = nbformat.read(source, as_version=4)
    start, error = time.monotonic(), None
    try:
        execute(notebook, source.parent)
    except CellExecutionError as failure:
        error = failure
    weights = sorted(path for path in output.rglob("*") if path.is_file())
    figures = save_figures(notebook, output)
    nbformat.write(notebook, output / source.name)
    if error:
        print(f"\n{error}\nA cell failed; the notebook up to there: {output / source.name}")
        return 1
    print(f"\nDone in {time.monotonic() - start:.0f} s. In {os.path.relpath(output)}/ there are")
    for kind, paths in {"the executed notebook": [output / source.name], "its figures": figures, "the trained weights": weights}.items():
        for path in paths:
            print(f"  {kind:22} {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
