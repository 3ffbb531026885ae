"""Times torchdyn and its peers on the same problems, each in a process of its own.

    python bench.py                                  all workloads, growth, work against precision;
                                                     writes results.json
    python bench.py --workloads W1a W6a --repeats 5  these only; prints, and writes nothing unless
                                                     --output is given
    python bench.py --workloads F2 F10 --keep        these only, in the place of what results.json
                                                     has of them
    python bench.py --against ../older              also times the torchdyn of another working tree

The peers are installed once into .bench/, a folder for each: two of them bear the same name, and
none is needed by the library.
"""

import argparse
import json
import os
import platform
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm
from workloads import BASE, PEERS, TWO_THREADS, WORKLOADS, data, variants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".bench"
# What each peer needs beside torch, numpy and scipy, which it shares with the library; versions are
# in constraints.txt. torchcde is an extra of the library: it is there already.
INSTALLS = {
    "torchdiffeq": "torchdiffeq",
    "torchode": "torchode torchtyping typeguard",
    "torchdyn1": "torchdyn==1.0.6 torchcde torchsde torchdiffeq trampoline",
    "diffrax": "diffrax equinox jax jaxlib jaxtyping lineax optimistix wadler-lindig ml_dtypes "
    "opt_einsum",
    "zuko": "zuko",
    "torchdeq": "torchdeq",
}


def install():
    "Makes the peers' folders, each once. A peer that cannot be installed is left out."
    constraints = ROOT / "constraints.txt"
    for peer, names in INSTALLS.items():
        stamp, wanted = (
            FOLDER / peer / ".installed",
            names
            + "\n"
            + "\n".join(
                line
                for line in constraints.read_text().splitlines()
                if line.split("==")[0] in names.split()
            ),
        )
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        print(f"installing {peer} into .bench/, once", flush=True)
        shutil.rmtree(FOLDER / peer, ignore_errors=True)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "-c",
                constraints,
                "--target",
                FOLDER / peer,
                *names.split(),
            ]
        )
        if done.returncode:
            print(f"  {peer} could not be installed: it is left out")
        else:
            stamp.write_text(wanted)


class Worker:
    "A peer's process. It is killed when it takes too long, and started anew for the next workload."

    def __init__(self, peer, threads=1, path=None):
        self.peer, self.threads, self.process = peer, threads, None
        self.path = path or (ROOT if peer in ("torchdyn", "reference") else FOLDER / peer)

    def start(self):
        n = str(self.threads)
        limits = {
            key: n
            for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
        }  # the last is read by jax
        flags = (
            ""
            if self.threads > 1
            else "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
        environment = {
            **os.environ,
            **limits,
            "PYTHONPATH": str(self.path),
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONWARNINGS": "ignore",
        }
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "workers.py"), self.peer, n],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            bufsize=0,
        )

    def ask(self, limit=120, **request):
        "The worker's answer; {'unavailable': reason} if it has none."
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write((json.dumps(request) + "\n").encode())
        except BrokenPipeError:
            return self.lost()
        reply, end = b"", time.monotonic() + limit
        while not reply.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                self.stop()
                return {"unavailable": f"no answer in {limit:.0f} s"}
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                return self.lost()
            reply += piece
        return json.loads(reply)

    def lost(self):
        self.process.wait()
        self.log.seek(0)
        last = self.log.read().decode(errors="replace").strip().splitlines()[-1:]
        code, self.process = self.process.returncode, None
        return {"unavailable": f"the process ended ({code}): {''.join(last)[:160]}"}

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None


def workers(threads, against=None):
    "A worker for each peer that can be imported, and what keeps the others out; versions."
    found, missing, versions = {"reference": Worker("reference")}, {}, {}
    paths = {peer: None for peer in PEERS} | ({OTHER: Path(against).resolve()} if against else {})
    for name, path in paths.items():
        worker = Worker(name.split()[0], threads, path)
        reply = worker.ask(do="version")
        if "version" in reply:
            found[name], versions[name] = worker, reply["version"]
        else:
            missing[name] = (
                "not installed"
                if "ModuleNotFound" in reply["unavailable"]
                else reply["unavailable"]
            )
            worker.stop()
    return found, missing, versions


# --- one workload -----------------------------------------------------------------------------


def distance(found, wanted):
    """Largest error of the states, their mean error at the last output, and relative error of the
    gradient."""
    off = np.abs(found["states"].astype(np.float64) - wanted["states"])
    states = float(off.max()), float(off[-1].mean())
    if "gradient" not in found or "gradient" not in wanted:
        return *states, None
    return *states, float(
        np.linalg.norm(found["gradient"] - wanted["gradient"]) / np.linalg.norm(wanted["gradient"])
    )


def prepare(worker, w, options, folder, reference=None, slot=""):
    "Hands a workload to a worker, which runs it twice; its counts and errors."
    source, target = Path(folder) / f"{w.name}.npz", Path(folder) / "result.npz"
    if not source.exists():
        np.savez(source, **data(w))
    reply = worker.ask(
        limit=300 if options.get("compile") or options.get("adjoint") else 120,
        do="prepare",
        slot=slot,
        workload=asdict(w),
        options=options,
        data=str(source),
        save=str(target),
    )
    if "unavailable" in reply or reference is None:
        return reply
    with np.load(target) as found:
        reply["error"], reply["mean_error"], reply["gradient_error"] = distance(
            dict(found), reference
        )
    if not np.isfinite(reply["error"]):
        return {"unavailable": "the result is not finite"}
    return reply


REFERENCES = {}  # results in double precision, by workload


def reference(w, pool, folder):
    "The result in double precision, worked out once."
    found = REFERENCES
    if w.name not in found:
        reply = prepare(pool["reference"], w, {}, folder)
        if "unavailable" in reply:
            sys.exit(f"no reference for {w.name}: {reply['unavailable']}")
        with np.load(Path(folder) / "result.npz") as result:
            found[w.name] = dict(result)
        pool["reference"].ask(do="clear")
    return found[w.name]


def measure(w, pool, missing, threads, repeats, limit, folder, bar):
    "All peers on one workload, in turn; a row of results for each."
    bar.set_description(f"{w.name} reference")
    exact, rows, ready = reference(w, pool, folder), [], []
    takes_part = variants(w)
    if OTHER in {*pool, *missing}:
        takes_part += [(OTHER, *rest) for peer, *rest in takes_part if peer == "torchdyn"]
    for peer, label, options in takes_part:
        row = {"workload": w.name, "peer": peer, "variant": label, "threads": threads}
        rows.append(row)
        bar.set_description(f"{w.name} {peer} {label if options else ''}")
        if options is None:
            row.update(variant="", unavailable=label)
        elif peer in missing:
            row.update(unavailable=missing[peer])
        else:
            row["tol"] = options.get("tol", w.tol)
            row.update(prepare(pool[peer], w, options, folder, exact, label))
        if "unavailable" not in row:
            ready.append((row, pool[peer], max(1, min(50, round(0.02 / row.pop("once"))))))
    for row, *_ in ready:
        row["cpu"], row["wall"], row["floors"] = [], [], []
    end = time.monotonic() + limit
    for turn in range(repeats):
        if turn >= 3 and time.monotonic() > end:
            break
        for row, worker, n in ready[turn % len(ready) :] + ready[: turn % len(ready)]:
            if "unavailable" in row:
                continue
            bar.set_description(f"{w.name} {row['peer']} {row['variant']} {turn + 1}/{repeats}")
            reply = worker.ask(do="time", slot=row["variant"], n=n)
            if "unavailable" in reply:
                row["unavailable"] = reply["unavailable"]
                continue
            row["cpu"].append(reply["cpu"])
            row["wall"].append(reply["wall"])
            row["floors"].append(
                worker.ask(do="floor", slot=row["variant"]).get("value")
            )  # beside the time that it is compared with
    for worker in pool.values():
        worker.ask(do="clear")
    return [finish(w, row, rows) for row in rows]


def finish(w, row, rows):
    "Medians, ratios and overhead of a row of results; what did not work says why and no more."
    if "unavailable" in row:
        return {key: row[key] for key in ("workload", "peer", "variant", "threads", "unavailable")}
    base = next((r for r in rows if r["peer"] == BASE and "unavailable" not in r), None)
    for clock in ("cpu", "wall"):
        if base:
            row[f"ratio_{clock}"] = statistics.median(
                a / b for a, b in zip(row[clock], base[clock])
            )
    floors = row.pop("floors")
    if (
        floors[0]
        and floors[0][0]
        and row["nfe"]
        and row["nfe_backward"] is not None
        and w.method != "stiff"
    ):

        def bare(forward, both):
            return (
                row["nfe"] * both
                if w.task == "train"
                else row["nfe"] * forward + row["nfe_backward"] * both
            )

        row["overhead"] = statistics.median(t / bare(*f) for t, f in zip(row["cpu"], floors))
    return row


# --- cost against accuracy, and against size --------------------------------------------------

SMOOTH = replace(WORKLOADS["W1a"], outputs=10, double=True)
METHODS = {
    "torchdyn": ("dopri5", "tsit5", "dopri8"),
    "torchdiffeq": ("dopri5", "dopri8"),
    "torchode": ("dopri5",),
    "torchdyn1": ("dopri5",),
    "diffrax": ("dopri5",),
}


def work_precision(pool, repeats, folder, bar):
    "Error and CPU time, the least of `repeats`, over tolerances, in double precision."
    exact, found = reference(replace(SMOOTH, name="smooth"), pool, folder), []
    for tol in 10.0 ** -np.arange(3, 10):
        ready = []
        for peer, method in (
            (p, m) for p, methods in METHODS.items() if p in pool for m in methods
        ):
            bar.set_description(f"work against precision {tol:.0e} {peer} {method}")
            reply = prepare(
                pool[peer],
                replace(SMOOTH, name="smooth", tol=float(tol), method=method),
                {},
                folder,
                exact,
                method,
            )
            if "unavailable" not in reply:
                ready.append((reply, peer, method, []))
        for _ in range(repeats):
            for reply, peer, method, times in ready:
                times.append(
                    pool[peer].ask(do="time", slot=method, n=max(1, round(0.02 / reply["once"])))
                )
        found += [
            {
                "peer": peer,
                "method": method,
                "tol": float(tol),
                "error": reply["error"],
                "nfe": reply["nfe"],
                "cpu": min(r["cpu"] for r in times),
            }
            for reply, peer, method, times in ready
            if all("cpu" in r for r in times)
        ]
    for worker in pool.values():
        worker.ask(do="clear")
    return found


END = replace(WORKLOADS["W6b"], task="reduced", outputs=2, steps=25)
SIZES = {  # what grows, in a training step of W1's field
    "steps": [replace(END, steps=n) for n in (25, 50, 100, 200)],
    "samples": [replace(END, batch=n) for n in (32, 128, 512, 2048)],
    "outputs": [replace(WORKLOADS["W3a"], outputs=n) for n in (2, 10, 40, 120)],
    "width": [replace(END, widths=(2, n, n, 2)) for n in (32, 64, 128, 256)],
}
WAYS = [("torchdyn", s, {"sensitivity": s}) for s in ("autograd", "checkpointed", "adjoint")] + [
    ("torchdiffeq", "autograd", {}),
    ("torchdiffeq", "adjoint", {"adjoint": True}),
]


def growth(pool, repeats, folder, bar):
    "CPU time, the least of `repeats`, and peak memory of a training step as one number grows."
    found = []
    for kind, sizes in SIZES.items():
        for i, w in enumerate(sizes):
            w = replace(w, name=f"{kind}{i}")
            size = {
                "steps": w.steps,
                "samples": w.batch,
                "outputs": w.outputs,
                "width": w.widths[1],
            }[kind]
            for peer, way, options in WAYS:
                bar.set_description(f"growth {kind} {size} {peer} {way}")
                if peer not in pool:
                    continue
                reply = prepare(pool[peer], w, options, folder)
                if "unavailable" in reply:
                    continue
                times = [
                    pool[peer].ask(do="time", n=1)
                    for _ in range(repeats if reply["once"] < 1 else 1)
                ]
                memory = pool[peer].ask(do="memory") if kind in ("steps", "samples") else {}
                if all("cpu" in r for r in times):
                    found.append(
                        {
                            "kind": kind,
                            "size": size,
                            "peer": peer,
                            "way": way,
                            "cpu": min(r["cpu"] for r in times),
                            "bytes": memory.get("value"),
                            "nfe": reply["nfe"],
                        }
                    )
    for worker in pool.values():
        worker.ask(do="clear")
    return found


# --- the whole --------------------------------------------------------------------------------

OTHER = "torchdyn (other)"


def rounded(v):
    "Four digits are more than a time is worth."
    if isinstance(v, float):
        return float(f"{v:.4g}")
    if isinstance(v, dict):
        return {key: rounded(u) for key, u in v.items()}
    return [rounded(u) for u in v] if isinstance(v, list) else v


def table(rows):
    "The rows as text."
    lines = [
        f"{'':49}{'CPU ms':>9}{'wall ms':>9}{'ratio':>8}{'overhead':>10}{'error':>10}"
        f"{'of grad':>10}{'NFE':>12}"
    ]
    for row in rows:
        label = ", ".join(filter(None, (row["peer"], row["variant"])))
        label += " [2 threads]" if row["threads"] == 2 else ""
        who = f"{row['workload']:5}{label:44}"
        if "unavailable" in row:
            lines.append(f"{who} not available: {row['unavailable']}")
            continue
        cells = [f"{statistics.median(row[c]) * 1e3:9.2f}" for c in ("cpu", "wall")] + [
            f"{row['ratio_wall' if row['threads'] > 1 else 'ratio_cpu']:8.3f}"
            if "ratio_cpu" in row
            else " " * 8
        ]
        cells += [
            f"{row['overhead']:10.2f}" if "overhead" in row else " " * 10,
            f"{row['error']:10.1e}",
            f"{row['gradient_error']:10.1e}" if row["gradient_error"] is not None else " " * 10,
        ]
        lines.append(
            who
            + "".join(cells)
            + f"{' + '.join(str(n) for n in (row['nfe'] or '?', row['nfe_backward']) if n):>12}"
        )
    return "\n".join(lines)


def refuse(stored, measured):
    "Ends the program where results cannot stand beside the stored ones."
    both = stored["versions"].keys() & measured["versions"].keys()
    seen = [(key, stored[key], measured[key]) for key in ("machine", "python")]
    seen += [(peer, stored["versions"][peer], measured["versions"][peer]) for peer in both]
    for what, old, new in seen:
        if old != new:
            sys.exit(f"the stored results are of another {what}, {old} and not {new}: run them all")


def merged(stored, measured):
    "The stored results, with those of the measured workloads in their place."
    fresh = {(r["workload"], r["threads"]) for r in measured["results"]}
    names = stored["workloads"] | measured["workloads"]
    kept = [r for r in stored["results"] if (r["workload"], r["threads"]) not in fresh]
    places = [*WORKLOADS]
    return stored | {
        "versions": stored["versions"] | measured["versions"],
        "workloads": {name: names[name] for name in places if name in names},
        "results": sorted(
            kept + measured["results"], key=lambda r: (r["threads"], places.index(r["workload"]))
        ),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workloads",
        nargs="*",
        default=[],
        choices=[*WORKLOADS],
        metavar="NAME",
        help="only these: " + " ".join(WORKLOADS),
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds of each workload")
    parser.add_argument(
        "--limit",
        type=float,
        default=6,
        help="seconds of rounds for a workload; three are always made",
    )
    parser.add_argument("--output", type=Path, help="where the results go")
    parser.add_argument(
        "--keep", action="store_true", help="results of --workloads go among the stored ones"
    )
    parser.add_argument(
        "--against", type=Path, help="another working tree, whose torchdyn is timed too"
    )
    options = parser.parse_args()
    install()
    names, whole = options.workloads or [*WORKLOADS], not options.workloads
    output = options.output or (HERE / "results.json" if whole or options.keep else None)
    stored = json.loads(output.read_text()) if options.keep and output.exists() else None
    both = whole or options.keep and set(names) & set(TWO_THREADS)
    results = {
        "machine": f"{platform.machine().replace('_', '-')}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "workloads": {name: WORKLOADS[name].title for name in names},
        "results": [],
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(
            total=len(names) + (len(set(names) & set(TWO_THREADS)) if both else 0) + 2 * whole,
            file=sys.stdout,
            ascii=True,
            dynamic_ncols=True,
        ) as bar,
    ):
        for threads in (1, 2) if both else (1,):
            pool, missing, versions = workers(threads, options.against)
            if threads == 1:
                results["versions"] = versions
            try:
                if stored:
                    refuse(stored, results)
                for name in names:
                    if threads == 2 and name not in TWO_THREADS:
                        continue
                    rows = measure(
                        WORKLOADS[name],
                        pool,
                        missing,
                        threads,
                        options.repeats,
                        options.limit,
                        folder,
                        bar,
                    )
                    results["results"] += rows
                    bar.write(table(rows) + "\n", file=sys.stdout)
                    bar.update()
                if threads == 1 and whole:
                    results["work_precision"] = work_precision(pool, 5, folder, bar)
                    bar.update()
                    results["growth"] = growth(pool, 5, folder, bar)
                    bar.update()
            finally:
                for worker in pool.values():
                    worker.stop()
    if not output:
        return print("results.json is written by a run of all workloads, or with --keep")
    if stored:  # read again: another run may have added to them
        results = merged(json.loads(output.read_text()), results)
    lines = ",\n".join(
        f" {json.dumps(key)}: "
        + (
            json.dumps(v)
            if not isinstance(v, list)
            else "[\n  " + ",\n  ".join(map(json.dumps, v)) + "\n ]"
        )
        for key, v in rounded(results).items()
    )
    output.write_text("{\n" + lines + "\n}\n")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
