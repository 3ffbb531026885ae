"""What is measured: the problems, their numbers, and who solves them how.

Needs numpy alone, so every worker can read it.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Workload:
    "One problem and one task."

    name: str
    title: str
    # 'mlp', 'vdp', 'cnf', 'flow', 'robertson', 'equilibrium', 'cde', 'fill' or 'gbm'
    field: str = "mlp"
    # 'forward', 'train' (gradients through the steps) or 'reduced' (gradients without their tape)
    task: str = "forward"
    widths: tuple = (2, 64, 64, 2)
    batch: int = 128
    end: float = 1.0
    outputs: int = 50  # output times, the initial one among them
    method: str = (
        "dopri5"  # 'dopri5', 'rk4' (one step from each output to the next, or `steps`) or 'stiff'
    )
    steps: int = (
        0  # of rk4 over the whole interval, whatever the outputs (torchdyn and torchdiffeq)
    )
    tol: float = 1e-4  # both absolute and relative
    double: bool = False
    reference_tol: float = 1e-12

    @property
    def times(self):
        "Output times, in double precision."
        if self.field == "robertson":
            return np.concatenate([[0.0], np.logspace(-2, np.log10(self.end), self.outputs - 1)])
        # which have no time, or that of their data, and one state
        if self.field in ("equilibrium", "cde", "fill"):
            return np.zeros(1)
        # whose output is one: the log-density of the data, the mean of the paths
        if self.field.startswith("flow") or self.field == "gbm":
            return np.array([0.0, self.end])
        return np.linspace(0, self.end, self.outputs)


MLP = Workload("W1a", "forward, 1e-4")
WIDE = replace(MLP, widths=(2, 256, 256, 2))
CNF = Workload(
    "W5a", "CNF, training step", field="cnf", task="train", batch=512, outputs=2, tol=1e-5
)
FREQUENCIES = 3  # of the time, a cosine and a sine each, as more inputs of a flow's field


def flow(size, batch):
    "Maximum likelihood with the field that zuko makes by itself, in `size` dimensions."
    return Workload(
        f"F{size}",
        f"flow in {size} dimensions, training step",
        field="flow",
        task="train",
        widths=(size + 2 * FREQUENCIES, 64, 64, size),
        batch=batch,
        outputs=1,
        tol=1e-5,
        reference_tol=2e-8,  # the slope of ELU has a kink: the trace is no smoother than that
    )


PATHS = Workload(
    "S1",
    "1000 noisy steps, forward",
    field="gbm",
    widths=(1,),
    batch=512,
    outputs=1,
    method="euler",
    steps=1000,
)
FIXED = replace(MLP, method="rk4", outputs=101)
LARGE = Workload(
    "W7a",
    "large field, rk4",
    widths=(64, 512, 512, 64),
    batch=1024,
    method="rk4",
    outputs=11,
    reference_tol=1e-8,
)

WORKLOADS = {
    w.name: w
    for w in [
        MLP,
        replace(MLP, name="W1b", title="forward, 1e-6", tol=1e-6),
        replace(MLP, name="W2a", title="training step, 1e-4", task="train"),
        replace(MLP, name="W2b", title="training step, 1e-6", task="train", tol=1e-6),
        replace(MLP, name="W3a", title="reduced memory, 50 outputs", task="reduced"),
        replace(WIDE, name="W3b", title="reduced memory, 10 outputs", task="reduced", outputs=10),
        replace(WIDE, name="W3c", title="reduced memory, end only", task="reduced", outputs=2),
        Workload(
            "W4",
            "256 van der Pol oscillators",
            field="vdp",
            batch=256,
            end=10.0,
            outputs=100,
            tol=1e-5,
        ),
        CNF,
        replace(CNF, name="W5b", title="CNF, reduced memory", task="reduced"),
        replace(FIXED, name="W6a", title="rk4, 100 steps"),
        replace(FIXED, name="W6b", title="rk4, training step", task="train"),
        LARGE,
        replace(LARGE, name="W7b", title="large field, rk4, training step", task="train"),
        replace(LARGE, name="W7c", title="large field, dopri5", method="dopri5"),
        Workload(
            "W8",
            "Robertson, stiff",
            field="robertson",
            end=1e4,
            outputs=20,
            tol=1e-6,
            method="stiff",
            double=True,
        ),
        flow(2, 512),
        flow(10, 256),
        flow(64, 256),
        Workload(
            "E1",
            "equilibrium, training step",
            field="equilibrium",
            task="train",
            widths=(64,),
            outputs=1,
            tol=3e-8,
        ),
        PATHS,
        replace(PATHS, name="S2", title="1000 noisy steps, training step", task="train"),
        replace(
            PATHS,
            name="S3",
            title="1000 noisy steps, reduced memory",
            task="reduced",
            method="reversible_heun",
        ),
    ]
}
# Controlled equations: series of so many samples and channels drive 32 states.
SERIES = 100, 4
CDE = Workload(
    "C1",
    "CDE, midpoint, training step",
    field="cde",
    task="train",
    widths=(32, 64, 128),
    outputs=1,
    method="midpoint",
    tol=1e-6,  # absolute; the relative one is a hundred times as large
    reference_tol=1e-8,
)
WORKLOADS |= {
    w.name: w
    for w in [
        CDE,
        replace(CDE, name="C2", title="CDE, rk4, training step", method="rk4"),
        replace(CDE, name="C3", title="CDE, dopri5, training step", method="dopri5"),
        replace(CDE, name="C4", title="30 % missing values filled", field="fill", task="forward"),
    ]
}
TWO_THREADS = "W1a", "W2a", "W7a", "W7b", "W7c"  # repeated with two threads

PEERS = (
    "torchdyn",
    "torchdiffeq",
    "torchode",
    "torchdyn1",
    "diffrax",
    "scipy",
    "zuko",
    "torchdeq",
    "torchcde",
    "torchsde",
)
BASE = "torchdiffeq"  # ratios are relative to it


# Tolerances at which the errors of states and log-density, the largest and the mean, are not above
# those of whom a flow is compared with: torchdiffeq in W5, zuko in F2 to F64, both at 1e-5.
EQUAL_ERROR = {
    ("W5a", "ContinuousFlow"): 3e-5,
    ("W5a", "CNF"): 2e-5,
    ("W5b", "ContinuousFlow"): 3e-5,
    ("W5b", "CNF"): 2e-5,
    "F2": 1.5e-5,
    "F10": 1e-5,
    "F64": 5e-6,
}


def variants(w):
    """Who takes part: a list of (peer, label, options); options `None` with a reason in place of
    the label if a peer cannot."""
    one, none = [("", {})], lambda reason: [(reason, None)]
    if w.field == "gbm":
        rows = {
            "torchdyn": one,
            "torchsde": [("", {}), ("told the step", {"hint": True})],
            "diffrax": [("tree", {})] + [("unsafe path", {"unsafe": True})] * (w.task == "forward"),
        }
        return [(peer, label, options) for peer, found in rows.items() for label, options in found]
    if w.field == "equilibrium":
        rows = {
            "torchdyn": [
                ("anderson", {"solver": "anderson"}),
                ("anderson, jfb", {"solver": "anderson", "sensitivity": "jfb"}),
                ("picard", {"solver": "picard", "linear": "picard", "tol": 1e-7}),
                ("lbroyden", {"solver": "lbroyden", "linear": "gmres"}),
            ],
            # its residuals are sums over the unknowns: the errors are about those of the others
            "torchdeq": [
                (name, {"solver": name, "tol": tol})
                for name, tol in (("fixed_point_iter", 4e-6), ("anderson", 8e-7), ("broyden", 4e-6))
            ],
        }
        return [(peer, label, options) for peer, found in rows.items() for label, options in found]
    if w.field == "fill":
        return [(peer, *one[0]) for peer in ("torchdyn", "torchcde", "diffrax")]
    if w.field == "cde":
        rows = {
            "torchdyn": [(s, {"sensitivity": s}) for s in ("autograd", "checkpointed")]
            + [("autograd, at knots", {"at_knots": True})] * (w.method == "dopri5"),
            "torchcde": [("tape", {}), ("adjoint", {"adjoint": True})],
            "diffrax": one,
        }
        return [(peer, label, options) for peer, found in rows.items() for label, options in found]
    if w.field == "flow":
        rows = {
            "torchdyn": [
                (label, {"form": "flow", "trace": trace, "sensitivity": way, "tol": tol})
                for tol in (EQUAL_ERROR[w.name],)
                for label, trace, way in (
                    ("closed form, checkpointed", "closed", "checkpointed"),
                    ("closed form, tape", "closed", "autograd"),
                    ("rows, checkpointed", "rows", "checkpointed"),
                    ("rows, tape", "rows", "autograd"),
                )
            ],
            "torchdiffeq": one,
            "zuko": one,
        }
        return [(peer, label, options) for peer, found in rows.items() for label, options in found]
    special = "zuko", "torchdeq", "torchcde", "torchsde"
    rows = {peer: one for peer in PEERS if peer not in special}
    rows["torchdyn"] = one + [("compiled", {"compile": True})]
    rows["scipy"] = none("solves the stiff workload only")
    if w.task == "reduced":
        rows["torchdyn"] = [(s, {"sensitivity": s}) for s in ("checkpointed", "adjoint")] + [
            ("checkpointed, compiled", {"sensitivity": "checkpointed", "compile": True})
        ]
        rows["torchdiffeq"] = [("adjoint", {"adjoint": True})]
        rows["torchode"] = [("joint backsolve", {"adjoint": True})]
        rows["torchdyn1"] = [
            ("adjoint", {"sensitivity": "adjoint"}),
            ("interpolated adjoint", {"sensitivity": "interpolated_adjoint"}),
        ]
        rows["diffrax"] = [("checkpointed", {}), ("backsolve", {"backsolve": True})]
    elif w.field == "vdp":
        rows["torchdyn"] = [
            ("one clock", {}),
            ("per sample", {"per_sample": True}),
            ("one clock, compiled", {"compile": True}),
        ]
        rows["diffrax"] = [("one clock", {}), ("per sample", {"per_sample": True})]
    elif w.method == "stiff":
        rows = {
            "torchdyn": [(s, {"solver": s}) for s in ("rodas4", "radau5", "kvaerno5")]
            + [
                ("rodas4, with gradient", {"solver": "rodas4", "gradient": True}),
                ("rodas4, compiled", {"solver": "rodas4", "compile": True}),
                (
                    "rodas4, compiled, with gradient",
                    {"solver": "rodas4", "gradient": True, "compile": True},
                ),
            ],
            "torchdiffeq": [("scipy's Radau", {})],
            "torchode": none("explicit methods only"),
            "torchdyn1": none("fixed-step implicit Euler only"),
            "diffrax": [("kvaerno5", {})],
            "scipy": [("Radau", {})],
        }
    if w.field == "cnf":
        way = {"sensitivity": "autograd" if w.task == "train" else "checkpointed"}
        for name, form in (("ContinuousFlow", "integral"), ("CNF", "column")):
            for label, tol in (("", w.tol), (", equal error", EQUAL_ERROR[w.name, name])):
                rows["torchdyn"].append((name + label, {"form": form, "tol": tol, **way}))
        compiled = {"form": "integral", "tol": w.tol, "compile": True, **way}
        rows["torchdyn"].append(("ContinuousFlow, compiled", compiled))
    if w.method == "rk4":
        rows["torchode"] = none("no fixed-step rk4")
    return [(peer, label, options) for peer, found in rows.items() for label, options in found]


def data(w, seed=0):
    "Weights and initial state in the workload's precision, the same numbers for every peer."
    make, dtype = np.random.default_rng(seed), np.float64 if w.double else np.float32
    if w.field == "robertson":
        return {"x": np.array([1.0, 0.0, 0.0]), "k": np.array([0.04, 3e7, 1e4])}
    if w.field == "vdp":
        return {
            "x": (np.array([2.0, 0.0]) + 0.1 * make.standard_normal((w.batch, 2))).astype(dtype),
            "mu": np.linspace(0.1, 20, w.batch).astype(dtype),
        }
    if w.field in ("cde", "fill"):
        series = make.standard_normal((w.batch, *SERIES)).cumsum(1) / 30
        if w.field == "fill":  # the first sample is complete
            missing = make.random(series.shape) < 0.3
            missing[:, 0] = False
            return {"x": np.where(missing, np.nan, series).astype(dtype)}
        arrays = {"x": series}
        for i, (n, m) in enumerate(zip(w.widths, w.widths[1:])):
            arrays[f"w{i}"] = make.standard_normal((m, n)) / n**0.5
            arrays[f"b{i}"] = make.standard_normal(m) * 0.1
        return {name: v.astype(dtype) for name, v in arrays.items()}
    if w.field == "gbm":
        start = {"x": np.ones((w.batch, 1)), "growth": np.array(0.5), "volatility": np.array(0.5)}
        return {name: v.astype(dtype) for name, v in start.items()}
    if w.field == "equilibrium":
        symmetric = make.standard_normal((w.widths[0], w.widths[0]))
        symmetric = symmetric + symmetric.T
        return {
            "x": (0.1 * make.standard_normal((w.batch, w.widths[0]))).astype(dtype),
            "w0": (RADIUS * symmetric / np.linalg.norm(symmetric, 2)).astype(dtype),
        }
    size, gain = (w.widths[-1], 1.0) if w.field == "flow" else (w.widths[0], GAIN)
    arrays = {"x": make.standard_normal((w.batch, size))}
    for i, (n, m) in enumerate(zip(w.widths, w.widths[1:])):
        arrays[f"w{i}"], arrays[f"b{i}"] = (
            make.standard_normal((m, n)) * gain / n**0.5,
            make.standard_normal(m) * 0.1,
        )
    if w.field == "cnf":
        arrays["x"] = np.concatenate(
            [arrays["x"], np.zeros((w.batch, 1))], 1
        )  # state and log-determinant
    return {name: v.astype(dtype) for name, v in arrays.items()}


RADIUS = 0.95  # spectral, of the map of an equilibrium
GAIN = 2.0  # of the weights: a field with some turns in it
