"""The test suite: the package is what the notebooks export, they are clean, and each of them runs.

    python .ci/test.py                              everything
    python .ci/test.py nbs/numerics/05_steppers.ipynb        these notebooks only
    python .ci/test.py --flags slow                 also the cells marked `#| slow`
    python .ci/test.py --limit 600                  more CPU time for each notebook

The working tree is only read: the package is rebuilt, and the notebooks are cleaned, in a copy.

A notebook runs in a process of its own, a fork of this one, which has done the heavy imports and
started no thread. What is limited and shown is the CPU time of that process and its children: on a
busy machine a notebook takes longer on the wall, but has no more to compute.
"""
import argparse
import atexit
import faulthandler
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from textwrap import shorten

import asserts

ROOT = Path(__file__).resolve().parents[1]
TIMES = ROOT / ".venv" / "test_times.json"  # the CPU time of each notebook, the last time
HEAVY = ["torch", "matplotlib.pyplot", "scipy.integrate", "sklearn.datasets", "nbdev.test"]
LIMIT = 900        # seconds of CPU time for a notebook
SLOW_LIMIT = 3600  # the same with flags
PATIENCE = 10      # a notebook that sleeps is ended after so many times its limit on the wall
QUIET = 60         # a log is told what runs when nothing else was printed for so many seconds


# The two checks of the whole


def notebooks():
    "Every notebook of the project."
    def shown(path):
        return not any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts)

    found = filter(shown, (ROOT / "nbs").rglob("*.ipynb"))
    return sorted(found)


def changes(command, folder, pattern):
    "What an nbdev command, run on a copy of the notebooks, changes of `pattern` in `folder`."
    def files(root):
        found = (root / folder).rglob(pattern)
        return {path.relative_to(root): path.read_bytes() for path in found}

    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(ROOT / "settings.ini", scratch)
        hidden = shutil.ignore_patterns(".*", "_*")
        shutil.copytree(ROOT / "nbs", Path(scratch) / "nbs", ignore=hidden)
        program = Path(sys.executable).with_name(command)
        # a session of its own: Ctrl-C reaches this script alone, which then ends the program
        subprocess.run([program], cwd=scratch, check=True, start_new_session=True)
        made = files(Path(scratch))
        kept = files(ROOT)
    return sorted(str(name) for name in made.keys() | kept.keys()
                  if made.get(name) != kept.get(name))


def check_package():
    "The package rebuilt from nothing is byte for byte the one here, and that is committed."
    if stale := changes("nbdev_export", "torchdyn", "*.py"):
        reason = "not what the notebooks export (run nbdev_export, look at the change):"
        return "\n".join([reason, *stale])
    command = ["git", "status", "--porcelain", "torchdyn"]
    status = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    unsaved = status.stdout + status.stderr
    reason = "what the notebooks export, but not committed (commit it with the notebooks):"
    return unsaved and f"{reason}\n{unsaved}"


def check_clean():
    "nbdev_clean changes nothing in the notebooks."
    dirty = changes("nbdev_clean", "nbs", "[!.]*.ipynb")
    return dirty and "\n".join(["not clean (run nbdev_clean):", *dirty])


def check_text():
    "ruff finds nothing, and its formatter changes nothing: ruff.toml says what is looked at."
    program = Path(sys.executable).with_name("ruff")
    looks = "check --quiet --output-format concise nbs torchdyn", "format --check nbs"
    found = []
    for look in looks:
        command = [program, *look.split()]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
        if done.returncode:
            found.append(done.stdout + done.stderr)
    return "\n".join(found)


CHECKS = {
    "torchdyn/ is what the notebooks export": check_package,
    "the notebooks are clean": check_clean,
    "the text of the code is in order": check_text,
}


# A notebook in a process of its own


def run_cells(path, flags, place):
    "Run the cells of a notebook, writing each to the file `place` as it begins."
    import nbdev.test
    from nbdev.config import get_config

    class Shell(nbdev.test.CaptureShell):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.ast_transformers.append(asserts.TellingAsserts())
            self.user_ns_hidden[asserts.TELL] = self.user_ns[asserts.TELL] = asserts.tell

        def cell(self, cell, **options):
            place.write_text(f"{cell.idx_ + 1}\n{cell.source}")
            return super().cell(cell, **options)

    nbdev.test.CaptureShell = Shell
    skipped = get_config().tst_flags.split()
    passed, _ = nbdev.test.test_nb(path, skip_flags=skipped, force_flags=flags, basepath=ROOT)
    return passed


class Page:
    "A notebook that runs."

    def __init__(self, path, flags, folder):
        folder.mkdir()
        self.path = path
        self.log = folder / "log.txt"      # what it prints, and its error
        self.place = folder / "place.txt"  # the cell it is at: its number, its code
        self.trace = folder / "trace.txt"  # where it was when it was asked, or crashed
        self.begin = time.monotonic()
        self.computed = 0.                 # seconds of CPU time
        self.code = None                   # its exit code
        self.stopped = ""                  # why it was stopped, if it was
        self.pid = os.fork()
        if self.pid == 0:
            self.run(flags)

    @property
    def name(self):
        return os.path.relpath(self.path)

    def run(self, flags):
        "What the new process does."
        passed = False
        try:
            os.setsid()  # out of reach of Ctrl-C
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            trace = open(self.trace, "w")
            faulthandler.register(signal.SIGUSR1, trace)
            faulthandler.enable(trace)
            passed = run_cells(self.path, flags, self.place)
            # as at the end of any program: what libraries registered is put away, semaphores too
            atexit._run_exitfuncs()
        except BaseException:
            passed = False
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(not passed)

    def ended(self):
        "Whether the process has ended."
        if self.code is None:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self.computed = max(self.computed, used.ru_utime + used.ru_stime)
        return self.code is not None

    def error(self):
        "Why it failed; empty if it passed."
        if self.stopped or self.code == 0:
            return self.stopped
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        if self.code < 0:
            name = signal.Signals(-self.code).name
            return f"{self.name} was ended by {name} {self.where()}.\n{said}"
        return said or f"{self.name} ended with exit code {self.code}."

    def stop(self, reason):
        "End it; the sentence that says so."
        os.kill(self.pid, signal.SIGUSR1)
        for _ in range(50):  # it answers at once, or late on a busy machine, or never
            time.sleep(.1)
            if self.frames():
                break
        where = self.where()
        self.end()
        return f"{self.name} was stopped {reason} {where}"

    def where(self):
        "The place it is at, or was when it crashed, in words."
        text = self.place.read_text() if self.place.exists() else ""
        if not text:
            return "before its first cell"
        number, *code = text.splitlines()
        frames = self.frames()
        lines = [int(line) for file, line, function in frames
                 if file.startswith("<ipython-input") and function == "<module>"]
        line = code[lines[-1] - 1] if lines else next(filter(str.strip, code), "")
        quoted = f"`{shorten(line, 60, placeholder=' ...')}`"
        found = f"in cell {number}{',' if lines else ', which begins'} {quoted}"
        ours = [frame for frame in frames if frame[0].startswith(str(ROOT / "torchdyn"))]
        if not ours:
            return found
        file, line, function = ours[0]
        return f"{found}, at {os.path.relpath(file)}:{line} ({function})"

    def frames(self):
        "File, line and function of each call of its main thread, the latest first."
        text = self.trace.read_text(errors="replace") if self.trace.exists() else ""
        main = [thread for thread in text.split("\n\n") if __file__ in thread]
        return re.findall(r'File "(.+)", line (\d+) in (.+)', main[0]) if main else []

    def end(self):
        "End what is left of the process and of those it started."
        for signum in signal.SIGTERM, signal.SIGKILL:
            for pid in family(self.pid):
                try:
                    os.kill(pid, signum)
                except ProcessLookupError:
                    pass
            give_up = time.monotonic() + 5
            while not self.ended() or family(self.pid):
                if time.monotonic() > give_up:
                    break
                time.sleep(.05)
            else:
                return


# What processes compute


def processes():
    "Number, parent, group and CPU time of each process of the machine that has not ended."
    if not os.path.exists("/proc/self/stat"):
        yield from processes_by_ps()
        return
    ticks = os.sysconf("SC_CLK_TCK")
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        used = sum(map(int, fields[11:15]))  # by itself and by its ended children
        if fields[0] != "Z":
            yield int(file.parent.name), int(fields[1]), int(fields[2]), used / ticks


def processes_by_ps():
    "The same where there is no /proc, as on macOS."
    command = ["ps", "-A", "-S", "-o", "pid=,ppid=,pgid=,time=,stat="]
    table = subprocess.run(command, text=True, capture_output=True).stdout
    for line in table.splitlines():
        pid, parent, group, used, state = line.split()
        parts = [float(part) for part in re.split("[-:]", used)]
        units = (86400, 3600, 60, 1)[-len(parts):]
        if not state.startswith("Z"):
            yield int(pid), int(parent), int(group), sum(p * u for p, u in zip(parts, units))


def families(leaders):
    "For each leader the processes it started, itself included, and their CPU time."
    table = {pid: rest for pid, *rest in processes()}

    def leader_of(pid):
        while pid in table:
            if pid in leaders:
                return pid
            parent, group, _ = table[pid]
            if group in leaders:
                return group
            pid = parent

    found = {leader: {} for leader in leaders}
    for pid in table:
        leader = leader_of(pid)
        if leader is not None:
            found[leader][pid] = table[pid][2]
    return found


def family(leader):
    return list(families({leader})[leader])


# All of them


class Report:
    "What is shown: a line for each result, and what runs."

    def __init__(self, total):
        self.total = total
        self.passed = 0
        self.failed = []
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.said = time.monotonic()

    @property
    def progress(self):
        return f"{self.passed + len(self.failed)}/{self.total}"

    def say(self, text):
        if self.live:
            print("\r\033[K", end="")
        print(text, flush=True)
        self.said = time.monotonic()

    def result(self, name, seconds, error):
        if error:
            self.failed.append(name)
        else:
            self.passed += 1
        verdict = "FAILED" if error else "passed"
        self.say(f"{verdict} {self.progress:>6} {seconds:7.1f} s  {name}")
        if error:
            self.say("    " + error.strip().replace("\n", "\n    "))

    def running(self, names):
        "On a terminal a line that is written over, in a log a line now and then."
        text = f"{self.progress}, running: {', '.join(names)}"
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="", flush=True)
        elif time.monotonic() - self.said > QUIET:
            self.say(text)

    def close(self, note=""):
        if note:
            self.say(note)
        if self.failed and self.total > 1:
            self.say("failed: " + ", ".join(self.failed))
        self.say(f"{self.passed} passed, {len(self.failed)} failed")


def run_notebooks(paths, flags, limit, workers, report):
    "Run notebooks side by side; yields each `Page` that has ended."
    folder = Path(tempfile.mkdtemp())
    os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="agg", IPYTHONDIR=str(folder))
    waiting = list(paths)
    pages = []
    try:
        report.running(["imports"])
        for name in HEAVY:
            importlib.import_module(name)
        looked = time.monotonic()
        while waiting or pages:
            while waiting and len(pages) < workers:
                pages.append(Page(waiting.pop(0), flags, folder / str(len(waiting))))
            time.sleep(.1)
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                look(pages, limit)
                report.running([f"{page.name} {page.computed:.0f} s" for page in pages])
            for page in [page for page in pages if page.ended()]:
                page.end()  # nothing that it started outlives it
                pages.remove(page)
                yield page
    finally:
        for page in pages:
            page.end()
        shutil.rmtree(folder, ignore_errors=True)


def look(pages, limit):
    "Learn what pages have computed, and stop those that have used their time."
    found = families({page.pid for page in pages})
    more = f"; make test LIMIT={2 * limit:g} allows more."
    for page in pages:
        page.computed = max(page.computed, sum(found[page.pid].values()))
        elapsed = time.monotonic() - page.begin
        if page.computed > limit:
            page.stopped = page.stop(f"after {page.computed:.0f} s of CPU time") + more
        elif elapsed > PATIENCE * limit:
            idle = f"after {elapsed:.0f} s, of which it computed only {page.computed:.0f} s,"
            page.stopped = page.stop(idle) + more


def notebook(name):
    path = Path(name).resolve()
    if path.suffix != ".ipynb" or not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no notebook {name}")
    return path


def seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"wanted a number of seconds, above 0; got {text}")
    return value


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("notebooks", nargs="*", type=notebook,
        help="run only these, without the two checks of the whole")
    add("--flags", default="",
        help="run these kinds of cells too, of those that settings.ini skips (tst_flags)")
    add("--workers", type=int, default=max(2, min(os.cpu_count() or 2, 8)),
        help="notebooks at a time")
    add("--limit", type=seconds,
        help=f"seconds of CPU time for a notebook and what it starts (default {LIMIT}; "
             f"{SLOW_LIMIT} with flags); it is ended too after {PATIENCE} times that on the wall")
    return parser.parse_args()


def interrupt(*_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main():
    args = arguments()
    os.chdir(ROOT)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    paths = args.notebooks or notebooks()
    checks = {} if args.notebooks else CHECKS
    flags = args.flags.split()
    limit = args.limit or (SLOW_LIMIT if flags else LIMIT)
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    paths.sort(key=lambda path: -times.get(os.path.relpath(path), 1e9))  # the longest first
    report = Report(len(checks) + len(paths))
    report.say(f"{report.total} to run, {args.workers} at a time; seconds of CPU time")
    try:
        for name, check in checks.items():
            report.running([name])
            before = os.times()
            error = check()
            after = os.times()
            report.result(name, sum(after[:4]) - sum(before[:4]), error)
        for page in run_notebooks(paths, flags, limit, args.workers, report):
            report.result(page.name, page.computed, page.error())
            times[page.name] = round(page.computed, 1)
    except KeyboardInterrupt:
        report.close(f"stopped at {report.progress}")
        return 130
    if TIMES.parent.exists():
        TIMES.write_text(json.dumps(times))
    report.close()
    return len(report.failed) > 0


if __name__ == "__main__":
    sys.exit(main())
