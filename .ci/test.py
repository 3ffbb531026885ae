"""The test suite: the package is what the notebooks export, the notebooks are clean, and each of them runs.

    python .ci/test.py                              everything
    python .ci/test.py nbs/02_steppers.ipynb        these notebooks only
    python .ci/test.py --flags slow                 also the cells marked `#| slow`

The working tree is only read: the package is rebuilt, and the notebooks are cleaned, in a scratch copy.
"""
import argparse
import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import connection, get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMES = ROOT / ".venv" / "test_times.json"  # what each notebook took the last time
HEAVY = ["torch", "matplotlib.pyplot", "scipy.integrate", "sklearn.datasets", "nbdev.test"]


def notebooks():
    "Every notebook of the project; tutorials and large checks first, since they take longest."
    found = (ROOT / "nbs").rglob("*.ipynb")
    kept = [path for path in found if not any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts)]
    return sorted(kept, key=lambda path: (path.parent == ROOT / "nbs", path))


def changes(command, folder, pattern):
    "Run an nbdev command on a copy of the notebooks; the files matching `pattern` that it would change in `folder`."
    def files(root):
        return {path.relative_to(root): path.read_bytes() for path in (root / folder).rglob(pattern)}

    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(ROOT / "settings.ini", scratch)
        shutil.copytree(ROOT / "nbs", Path(scratch) / "nbs", ignore=shutil.ignore_patterns(".*", "_*"))
        subprocess.run([Path(sys.executable).with_name(command)], cwd=scratch, check=True)
        made, kept = files(Path(scratch)), files(ROOT)
    return sorted(str(name) for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))


def check_package():
    "The package rebuilt from nothing is byte for byte the one here, and the one here is committed."
    if stale := changes("nbdev_export", "torchdyn", "*.py"):
        return "\n".join(["not what the notebooks export (run nbdev_export, look at the change):", *stale])
    status = subprocess.run(["git", "status", "--porcelain", "torchdyn"], cwd=ROOT, text=True, capture_output=True)
    unsaved = status.stdout + status.stderr
    return unsaved and f"what the notebooks export, but not committed (commit it with the notebooks):\n{unsaved}"


def check_clean():
    "nbdev_clean changes nothing in the notebooks."
    dirty = changes("nbdev_clean", "nbs", "[!.]*.ipynb")
    return dirty and "\n".join(["not clean (run nbdev_clean):", *dirty])


def run_notebook(path, flags, limit, log):
    "Run the cells of one notebook; its prints and errors go to the file `log`. Ends the process it runs in."
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1), os.dup2(output, 2)
    faulthandler.dump_traceback_later(limit, exit=True)  # too long: says where it was, and ends the process
    from nbdev.config import get_config
    from nbdev.test import test_nb

    passed, _ = test_nb(path, skip_flags=get_config().tst_flags.split(), force_flags=flags, basepath=ROOT)
    sys.exit(not passed)


def run_notebooks(paths, flags, limit, workers):
    "Run notebooks side by side; yields path, seconds and error (empty if it passed) as each finishes."
    # Each gets a process of its own, forked from a server that has done the heavy imports and started no thread.
    context = get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    waiting, running = list(paths), {}
    with tempfile.TemporaryDirectory() as logs:
        os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="agg", IPYTHONDIR=logs)
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    path, log = waiting.pop(0), Path(logs) / f"{len(waiting)}.txt"
                    process = context.Process(target=run_notebook, args=(path, flags, limit, log))
                    process.start()
                    running[process.sentinel] = process, path, log, time.monotonic()
                for sentinel in connection.wait(running):
                    process, path, log, start = running.pop(sentinel)
                    process.join()
                    error = process.exitcode and (log.read_text(errors="replace") or f"exit code {process.exitcode}")
                    yield path, time.monotonic() - start, error
        finally:
            for process, *_ in running.values():
                process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=lambda name: Path(name).resolve(), help="run only these, without the two checks of the whole")
    parser.add_argument("--flags", default="", help="run these kinds of cells too, of those that settings.ini skips (tst_flags)")
    parser.add_argument("--workers", type=int, default=max(2, min(os.cpu_count() or 2, 8)), help="notebooks at a time")
    parser.add_argument("--limit", type=float, help="seconds one notebook may take (default 300; 3600 with flags)")
    args = parser.parse_args()
    os.chdir(ROOT)
    for stop in signal.SIGTERM, signal.SIGINT:
        signal.signal(stop, lambda *_: sys.exit("stopped"))
    passed = failed = 0

    def report(name, seconds, error):
        nonlocal passed, failed
        passed, failed = passed + (not error), failed + bool(error)
        print(f"{'FAILED' if error else 'passed'} {seconds:7.1f} s  {name}", flush=True)
        if error:
            print("    " + error.strip().replace("\n", "\n    "), flush=True)

    if not args.notebooks:
        for name, check in ("torchdyn/ is what the notebooks export", check_package), ("the notebooks are clean", check_clean):
            start = time.monotonic()
            error = check()
            report(name, time.monotonic() - start, error)

    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    paths = args.notebooks or notebooks()
    paths.sort(key=lambda path: -times.get(path.name, 1e9))  # the longest first; a new one before them
    limit = args.limit or (3600 if args.flags else 300)
    for path, seconds, error in run_notebooks(paths, args.flags.split(), limit, args.workers):
        report(os.path.relpath(path), seconds, error)
        times[path.name] = round(seconds, 1)
    if TIMES.parent.exists():
        TIMES.write_text(json.dumps(times))
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
