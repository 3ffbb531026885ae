"""One process for each peer: reads requests from stdin, a JSON object a line, and answers each.

    python workers.py PEER THREADS

Requests: {"do": "version"}; {"do": "prepare", "slot": NAME, "workload": {...}, "options": {...},
"data": FILE.npz, "save": FILE.npz} warms up, saves the result and counts; {"do": "time", "slot":
NAME, "n": 3}, and "floor" and "memory", repeat what was prepared; "clear" forgets it all.
"""

import gc
import importlib.metadata
import inspect
import json
import os
import sys
import tempfile
import time
import types
import warnings

import numpy as np
from workloads import FREQUENCIES, Workload


class Unavailable(Exception):
    "The peer cannot do this."


def median_time(run, budget=0.03):
    "CPU seconds of one call, the median over some."
    run()
    found, end = [], time.perf_counter() + budget
    while len(found) < 3 or time.perf_counter() < end:
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return float(np.median(found))


# --- torch ------------------------------------------------------------------------------------


# field and trace, field and path, drift and noise have two counts; a search has no time
FIELDS_OF_TWO = "flow", "equilibrium", "cde", "fill", "gbm"


class TorchPeer:
    "What all peers that run on torch share: the fields, the task, the floor, the memory."

    def __init__(self, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def prepare(self, w, options, arrays):
        self.w, self.tensors = w, {name: self.torch.from_numpy(v) for name, v in arrays.items()}
        self.x, self.t = (
            self.tensors.pop("x"),
            self.torch.tensor(
                w.times, dtype=self.torch.float64 if w.double else self.torch.float32
            ),
        )
        self.gradient = w.task != "forward" or options.pop("gradient", False)
        self.f = self.counted = torch_field(w, self.tensors)
        self.parameters = list(self.f.parameters())
        for p in self.parameters:
            p.requires_grad_(self.gradient)
        self.solve = self.solver(options)

    def run(self):
        "-> states [T, ...], gradient or None, evaluations forward and backward."
        self.counted.nfe = 0
        if not self.gradient:
            with self.torch.no_grad():
                return self.solve(), None, self.counted.nfe, 0
        states = self.solve()
        forward = self.counted.nfe
        gradients = self.torch.autograd.grad(loss(self.w, states), self.parameters)
        return (
            states.detach(),
            self.torch.cat([g.reshape(-1) for g in self.in_order(gradients)]),
            forward,
            self.counted.nfe - forward,
        )

    def in_order(self, gradients):
        "As the parameters of the field that all peers share."
        return gradients

    def floor(self):
        "CPU seconds of one bare call of the field amid the solution, without and with backward."
        if self.counted is not self.f or self.w.field in FIELDS_OF_TWO:
            return None, None
        x = self.middle.clone()
        with self.torch.no_grad():
            forward = median_time(lambda: self.f(self.t[0], x))
        if not self.gradient:
            return forward, forward
        x, g = x.requires_grad_(), self.torch.ones_like(x)
        return forward, median_time(
            lambda: self.torch.autograd.grad(
                self.f(self.t[0], x), [x, *self.parameters], g, allow_unused=True
            )
        )

    def memory(self):
        "Peak of the memory that torch allocated in one run, in bytes, and what it had before."
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            self.run()
        with tempfile.TemporaryDirectory() as folder:
            record.export_chrome_trace(f"{folder}/trace.json")
            with open(f"{folder}/trace.json") as file:
                events = [e for e in json.load(file)["traceEvents"] if e.get("name") == "[memory]"]
        events.sort(key=lambda e: e["ts"])
        return float(max(0, np.cumsum([e["args"]["Bytes"] for e in events]).max(initial=0)))


def torch_field(w, tensors):
    import torch
    from torch import nn

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.nfe = 0
            self.names = sorted(tensors)
            for name, v in tensors.items():
                if name == "mu":
                    self.register_buffer(name, v)
                else:
                    self.register_parameter(name, nn.Parameter(v))

    class MLP(Field):
        def forward(self, t, x):
            self.nfe += 1
            for i in range(len(w.widths) - 1):
                x = nn.functional.linear(
                    x if i == 0 else torch.tanh(x), getattr(self, f"w{i}"), getattr(self, f"b{i}")
                )
            return x

    class CNF(Field):
        def forward(self, t, z):  # the trace by two tangents, carried along as plain products
            self.nfe += 1
            h = nn.functional.linear(z[..., :-1], self.w0, self.b0)
            tangent = self.w0.T
            for w, b in ((self.w1, self.b1), (self.w2, self.b2)):
                h = torch.tanh(h)
                tangent = (1 - h * h).unsqueeze(-2) * tangent
                h, tangent = nn.functional.linear(h, w, b), tangent @ w.T
            return torch.cat([h, tangent.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)], -1)

    class Flow(Field):  # the trace by a gradient for each dimension, as flows are mostly written
        def forward(self, t, z):
            self.nfe += 1
            with torch.enable_grad():
                x = z[:, :-1]
                x = x if x.requires_grad else x.detach().requires_grad_()
                dx = with_waves(t, x)
                for i in range(3):
                    dx = dx if i == 0 else nn.functional.elu(dx)
                    dx = nn.functional.linear(dx, getattr(self, f"w{i}"), getattr(self, f"b{i}"))
                trace = sum(
                    torch.autograd.grad(dx[:, i].sum(), x, create_graph=True)[0][:, i]
                    for i in range(x.shape[1])
                )
            return torch.cat([dx, trace.unsqueeze(1)], 1)

    class FlowByProducts(Field):  # the same: the trace of W2 S2 W1 S1 W0, S the slopes of ELU
        def forward(self, t, z):
            self.nfe += 1
            x, slopes = z[:, :-1], []
            h = nn.functional.linear(with_waves(t, x), self.w0, self.b0)
            for w, b in ((self.w1, self.b1), (self.w2, self.b2)):
                slopes.append(h.clamp(max=0).exp())
                h = nn.functional.linear(nn.functional.elu(h), w, b)
            around = self.w1 * (self.w0[:, : x.shape[1]] @ self.w2).T
            trace = (slopes[1] * nn.functional.linear(slopes[0], around)).sum(1, keepdim=True)
            return torch.cat([h, trace], 1)

    class VanDerPol(Field):
        def forward(self, t, x):
            self.nfe += 1
            position, speed = x[:, 0], x[:, 1]
            return torch.stack([speed, self.mu * (1 - position * position) * speed - position], 1)

    class Robertson(Field):
        def forward(self, t, x):
            self.nfe += 1
            a, b, c = x.unbind(-1)
            k1, k2, k3 = self.k.unbind()
            back, fast = k3 * b * c - k1 * a, k2 * b * b
            return torch.stack([back, -back - fast, fast], -1)

    class GeometricBrownian(Field):
        noise_type = "diagonal"
        sde_type = "ito" if w.method == "euler" else "stratonovich"

        def f(self, t, x):
            self.nfe += 1
            return self.growth * x

        def g(self, t, x):
            return self.volatility * x

    class Equilibrium(Field):
        def forward(self, z, x):
            self.nfe += 1
            return torch.tanh(nn.functional.linear(z, self.w0) + x)

    class Driven(Field):
        def forward(self, t, z):
            self.nfe += 1
            h = torch.tanh(nn.functional.linear(z, self.w0, self.b0))
            h = nn.functional.linear(h, self.w1, self.b1)
            return h.view(*z.shape, h.shape[-1] // z.shape[-1])

    return {
        "cde": Driven,
        "fill": Field,
        "equilibrium": Equilibrium,
        "gbm": GeometricBrownian,
        "mlp": MLP,
        "cnf": CNF,
        "flow": Flow,
        "flow by products": FlowByProducts,
        "vdp": VanDerPol,
        "robertson": Robertson,
    }[w.field]()


def with_waves(t, x):
    "A state and cosines and sines of the time: what enters the first layer of a flow's field."
    import torch

    angles = torch.arange(1, FREQUENCIES + 1, dtype=x.dtype) * (torch.pi * t)
    return torch.cat([x, torch.cat([angles.cos(), angles.sin()]).expand(len(x), -1)], 1)


def log_density(z, trace):
    "Of data that came to `z` in a standard normal, from the integral of the trace."
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * np.log(2 * np.pi)) + trace


def layers(f, act):
    "The weights of a field in PyTorch's own layers."
    from torch import nn

    found = []
    for i in range(3):
        weight, bias = getattr(f, f"w{i}"), getattr(f, f"b{i}")
        linear = nn.Linear(*reversed(weight.shape))
        linear.weight, linear.bias = weight, bias
        found += [linear, act()]
    return nn.Sequential(*found[:-1])


def first_state(x, size):
    "Of a controlled equation: the first sample, again and again."
    return x[:, :1].repeat(1, size // x.shape[-1], 1).reshape(len(x), size)


def loss(w, states):
    if w.field == "cde":
        return (states[-1] ** 2).mean()
    if w.field == "gbm":
        return states[-1]
    if w.field == "equilibrium":
        return states[-1].sin().sum()
    if w.field.startswith("flow"):
        return -states[-1].mean()
    return (
        (states[-1, :, :2] ** 2).mean() - states[-1, :, 2].mean()
        if w.field == "cnf"
        else (states[1:] ** 2).mean()
    )


class Torchdyn(TorchPeer):
    package = "torchdyn"

    def solver(self, options):
        from torchdyn import odeint

        if self.w.field == "gbm":
            return self.paths()
        if options.get("compile") and "compile" not in inspect.signature(odeint).parameters:
            raise Unavailable("odeint has no compile=")
        if self.w.field == "fill":
            from torchdyn.models.controls import fill_linear

            return lambda: fill_linear(self.x).unsqueeze(0)
        if self.w.field == "cde":
            return driven(self.f, self.x, self.w, **options)
        if self.w.field == "equilibrium":
            return self.equilibrium(**{"tol": self.w.tol, "tol_backward": 2e-7, **options})
        w, solver = self.w, options.pop("solver", self.w.method)
        tol, form = options.pop("tol", w.tol), options.pop("form", None)
        tolerance = {} if w.method == "rk4" else {"atol": tol, "rtol": tol}
        if form:
            return getattr(self, form)(solver=solver, **tolerance, **options)
        if w.steps:
            tolerance["dt"] = w.end / w.steps
        return lambda: odeint(self.f, self.x, self.t, solver, **tolerance, **options).x

    def paths(self):
        "The mean of paths of geometric Brownian motion."
        from torchdyn.numerics import sdeint

        w = self.w
        way = {"sensitivity": "reversible" if w.task == "reduced" else "autograd"}
        dt = w.end / w.steps
        return lambda: sdeint(self.f, self.x, self.t, w.method, dt=dt, **way).x[-1].mean(0)

    def equilibrium(self, **options):
        from torchdyn.core import EquilibriumLayer

        layer = EquilibriumLayer(self.f, max_iter=300, **options)
        return lambda: layer(self.x).unsqueeze(0)

    def column(self, **options):
        "W5 as `CNF`: the log-density is a column of the state."
        from torch import nn
        from torchdyn.core import ODEProblem
        from torchdyn.models.cnf import CNF

        problem = ODEProblem(CNF(layers(self.f, nn.Tanh)), **options)
        self.counted = problem.vf
        start = self.x.roll(1, 1)

        def solve():
            states = problem(start, self.t).x
            return self.torch.cat([states[..., 1:], -states[..., :1]], -1)

        return solve

    def integral(self, **options):
        "W5 as `ContinuousFlow`: the log-density is an integral along the solution."
        from torch import nn
        from torchdyn.models.flows import ContinuousFlow

        flow = ContinuousFlow(layers(self.f, nn.Tanh), 2, t_span=(self.w.end, 0.0), **options)
        self.counted = flow.vf
        start = self.x[:, :2].contiguous()

        def solve():
            flow.log_prob(start)
            z, trace = flow.solution.x[-1], flow.solution.integral_loss["trace"]
            return self.torch.stack([self.x, self.torch.cat([z, trace.unsqueeze(1)], 1)])

        return solve

    def flow(self, trace, **options):
        "The log-density of data under a flow. The field may know its divergence."
        from torch import nn
        from torchdyn.models.divergence import mlp_divergence
        from torchdyn.models.flows import ContinuousFlow

        class Waves(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net

            def forward(self, t, x):
                return self.net(with_waves(t, x))

        class Known(Waves):
            def divergence(self, t, x):
                waves = with_waves(t, x)[:, x.shape[1] :]
                return mlp_divergence(self.net)(x, waves)[1]

        field = {"rows": Waves, "closed": Known}[trace](layers(self.f, nn.ELU))
        flow = ContinuousFlow(field, self.x.shape[1], t_span=(self.w.end, 0.0), **options)
        self.counted = flow.vf
        return lambda: flow.log_prob(self.x).unsqueeze(0)


class Reference(TorchPeer):
    "Double precision at a tolerance far below every peer's, with the discrete gradient."

    package = "torchdyn"

    def prepare(self, w, options, arrays):
        from dataclasses import replace

        self.rounded = not w.double
        if w.field == "flow":
            w = replace(w, field="flow by products")
        super().prepare(
            replace(w, double=True),
            options,
            {name: v.astype(np.float64) for name, v in arrays.items()},
        )

    def solver(self, options):
        from torchdyn import odeint

        if self.w.field == "fill":
            from torchdyn.models.controls import fill_linear

            return lambda: fill_linear(self.x).unsqueeze(0)
        if self.w.field == "cde":
            from dataclasses import replace

            w = replace(self.w, method="dopri8", tol=self.w.reference_tol)
            # smooth between the knots
            knots = range(1, self.x.shape[1] - 1)
            return driven(self.f, self.x, w, sensitivity="checkpointed", t_stops=knots)
        if self.w.field == "gbm":  # the mean is known, to which those of the paths are close
            turn = 0.5 if self.w.method != "euler" else 0.0

            def mean():
                rate = self.f.growth + turn * self.f.volatility**2 + 0.0 * self.f.volatility
                return (rate * self.w.end).exp().unsqueeze(0)

            return mean
        if self.w.field == "equilibrium":
            from torchdyn.core import EquilibriumLayer

            layer = EquilibriumLayer(self.f, "newton", tol=1e-13)
            return lambda: layer(self.x).unsqueeze(0)
        if self.w.method == "stiff":
            return self.scipy
        times = self.torch.from_numpy(
            self.w.times.astype(np.float32 if self.rounded else np.float64)
        ).double()  # the times that the peers are given
        of_a_flow = self.w.field == "flow by products"

        def solve(x):
            return odeint(
                self.f,
                x,
                times,
                "dopri5" if of_a_flow else "dopri8",
                self.w.reference_tol,
                self.w.reference_tol,
                sensitivity="checkpointed",
                max_steps=10**6,
            ).x

        return lambda: end_density(solve, self.x) if of_a_flow else solve(self.x)

    def scipy(self):
        return self.torch.from_numpy(
            scipy_radau(self.w, {"x": self.x.numpy(), "k": self.f.k.detach().numpy()}, 1e-12, 1e-15)
        )


def end_density(solve, x):
    "The log-density of data from a solve of states with a column for the trace, `[1, B]`."
    import torch

    z = solve(torch.nn.functional.pad(x, (0, 1)))[-1]
    return log_density(z[:, :-1], z[:, -1]).unsqueeze(0)


def driven(f, x, w, **options):
    "A controlled equation as `NeuralCDE`; the path is made once."
    from torchdyn.models.cde import NeuralCDE
    from torchdyn.models.controls import control

    if w.method.startswith("dopri"):
        options = {"atol": w.tol, "rtol": 100 * w.tol, **options}
    cde = NeuralCDE(f, solver=w.method, **options)
    path, start = control(None, x), first_state(x, w.widths[0])
    return lambda: cde(path, z0=start).x[-1:]


class Torchcde(TorchPeer):
    package = "torchcde"

    def solver(self, options):
        import torchcde

        w = self.w
        if w.field == "fill":
            return lambda: torchcde.linear_interpolation_coeffs(self.x).unsqueeze(0)
        spline = torchcde.hermite_cubic_coefficients_with_backward_differences(self.x)
        path, start = torchcde.CubicSpline(spline), first_state(self.x, w.widths[0])
        how = {"method": w.method, "adjoint": options.get("adjoint", False)}
        if w.method == "dopri5":
            how |= {"atol": w.tol, "rtol": 100 * w.tol}
        else:
            how["options"] = {"step_size": 1.0}
        return lambda: torchcde.cdeint(path, self.f, start, path.interval, **how)[:, -1].unsqueeze(
            0
        )


class Torchdiffeq(TorchPeer):
    package = "torchdiffeq"

    def solver(self, options):
        from torchdiffeq import odeint, odeint_adjoint

        w, solve = self.w, odeint_adjoint if options.get("adjoint") else odeint
        if w.method == "stiff":
            return lambda: solve(
                self.f,
                self.x,
                self.t,
                atol=w.tol,
                rtol=w.tol,
                method="scipy_solver",
                options={"solver": "Radau"},
            )
        if w.method == "rk4":
            return lambda: solve(
                self.f,
                self.x,
                self.t,
                method="rk4",
                options={"step_size": w.end / w.steps} if w.steps else None,
            )

        def adaptive(x):
            return solve(self.f, x, self.t, atol=w.tol, rtol=w.tol, method=w.method)

        if w.field == "flow":
            return lambda: end_density(adaptive, self.x)
        return lambda: adaptive(self.x)


class Torchode(TorchPeer):
    package = "torchode"

    def solver(self, options):
        import torchode

        w, times = self.w, self.t.expand(len(self.x), -1).contiguous()
        term = torchode.ODETerm(self.f, with_stats=False)
        method, controller = (
            torchode.Dopri5(term),
            torchode.PIDController(w.tol, w.tol, 0.2, 0.5, 0.0, term=term),
        )
        adjoint = (
            torchode.JointBacksolveAdjoint(term, method, controller)
            if options.get("adjoint")
            else torchode.AutoDiffAdjoint(method, controller)
        )
        return lambda: adjoint.solve(
            torchode.InitialValueProblem(self.x, times[:, 0], times[:, -1], times)
        ).ys.transpose(0, 1)


class Torchdyn1(TorchPeer):
    package = "torchdyn"

    def solver(self, options):
        from torchdyn.core import ODEProblem
        from torchdyn.numerics import odeint

        w, tolerance = (
            self.w,
            {} if self.w.method == "rk4" else {"atol": self.w.tol, "rtol": self.w.tol},
        )
        if "sensitivity" not in options:
            return lambda: odeint(self.f, self.x, self.t, w.method, **tolerance)[1]
        problem = ODEProblem(
            self.f, w.method, atol_adjoint=w.tol, rtol_adjoint=w.tol, **tolerance, **options
        )
        at = [0, -1] if w.outputs == 2 else slice(None)

        def solve():
            times, states = problem(self.x, self.t)
            return (
                states[at]
                if len(times) == w.outputs or w.outputs == 2
                else states[self.torch.searchsorted(times, self.t)]
            )

        return solve


class Zuko(TorchPeer):
    package = "zuko"

    def solver(self, options):
        from torch import nn
        from zuko.flows import CNF

        w, size = self.w, self.x.shape[1]
        flow = CNF(size, freqs=FREQUENCIES, hidden_features=w.widths[1:-1], atol=w.tol, rtol=w.tol)
        net, self.counted = flow.transform.ode, types.SimpleNamespace(nfe=0)
        for i in range(3):
            weight = getattr(self.f, f"w{i}").detach()
            if i == 0:
                weight = weight.roll(-size, 1)  # zuko puts the waves before the state
            net[2 * i].weight = nn.Parameter(weight.clone())
            net[2 * i].bias = nn.Parameter(getattr(self.f, f"b{i}").detach().clone())
        names = [name for name, _ in self.f.named_parameters()]
        kinds = {"w": "weight", "b": "bias"}
        self.parameters = [getattr(net[2 * int(name[1])], kinds[name[0]]) for name in names]
        self.first, self.size = names.index("w0"), size
        net.register_forward_pre_hook(self.count)
        return lambda: flow().log_prob(self.x).unsqueeze(0)

    def count(self, *_):
        self.counted.nfe += 1

    def in_order(self, gradients):
        gradients = list(gradients)
        gradients[self.first] = gradients[self.first].roll(self.size, 1)
        return gradients


class Torchdeq(TorchPeer):
    package = "torchdeq"

    def solver(self, options):
        from torchdeq import get_deq

        name, tol = options["solver"], options["tol"]
        deq = get_deq(
            f_solver=name,
            b_solver=name,
            f_max_iter=300,
            b_max_iter=300,
            f_tol=tol,
            b_tol=10 * tol,
            f_stop_mode="abs",
            b_stop_mode="abs",
            ift=True,
        )
        start = self.torch.zeros_like(self.x)
        return lambda: deq(lambda z: self.f(z, self.x), start)[0][-1].unsqueeze(0)


class Torchsde(TorchPeer):
    package = "torchsde"

    def solver(self, options):
        import torchsde

        w, (start, end) = self.w, self.t.tolist()
        dt = w.end / w.steps
        solve = torchsde.sdeint_adjoint if w.task == "reduced" else torchsde.sdeint

        def run():
            motion = None
            if options.get("hint"):
                motion = torchsde.BrownianInterval(start, end, self.x.shape, dt=dt)
            return solve(self.f, self.x, self.t, bm=motion, method=w.method, dt=dt)[-1].mean(0)

        return run


# --- jax --------------------------------------------------------------------------------------


class Diffrax:
    package = "diffrax"

    def __init__(self, threads):
        pass  # set by the environment, before jax is imported

    def prepare(self, w, options, arrays):
        import diffrax
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", w.double)
        self.w, self.jax, self.bare, self.gradient = w, jax, None, w.task != "forward"
        arrays = {name: jnp.asarray(v) for name, v in arrays.items()}
        self.x, times = (
            arrays.pop("x"),
            jnp.asarray(w.times, dtype=jnp.float64 if w.double else jnp.float32),
        )
        if w.field in ("cde", "fill"):
            return self.prepare_path(diffrax, jax, jnp, arrays)
        if w.field == "gbm":
            return self.paths(arrays, bool(options.get("unsafe")))
        self.p, self.f = arrays, jax_field(w, jnp)
        adjoint = (
            diffrax.BacksolveAdjoint()
            if options.get("backsolve")
            else diffrax.RecursiveCheckpointAdjoint()
        )
        solver = {
            "dopri5": diffrax.Dopri5,
            "rk4": lambda: runge_kutta_4(diffrax),
            "stiff": diffrax.Kvaerno5,
        }[w.method]()
        fixed, self.stages = w.method == "rk4", {"dopri5": 6, "rk4": 4, "stiff": None}[w.method]

        def solve(p, x):
            common = dict(solver=solver, t0=times[0], t1=times[-1], y0=x, args=p, adjoint=adjoint)
            if fixed:  # a step from each time to the next
                found = diffrax.diffeqsolve(
                    diffrax.ODETerm(self.f),
                    dt0=None,
                    saveat=diffrax.SaveAt(t0=True, steps=True),
                    stepsize_controller=diffrax.StepTo(times),
                    max_steps=w.outputs - 1,
                    **common,
                )
            else:
                found = diffrax.diffeqsolve(
                    diffrax.ODETerm(self.f),
                    dt0=None,
                    saveat=diffrax.SaveAt(ts=times),
                    stepsize_controller=diffrax.PIDController(rtol=w.tol, atol=w.tol),
                    max_steps=4096,
                    **common,
                )
            return found.ys, found.stats["num_steps"]

        if options.get("per_sample"):
            inner, solve = (
                solve,
                lambda p, x: (lambda ys, n: (ys.swapaxes(0, 1), n.max()))(*jax.vmap(inner)(p, x)),
            )

        def scalar(p, x):
            states, steps = solve(p, x)
            return loss(w, states), (states, steps)

        self.compiled = jax.jit(jax.grad(scalar, has_aux=True) if self.gradient else solve)

    def prepare_path(self, diffrax, jax, jnp, arrays):
        "A controlled equation of the whole batch, or the filling of its gaps."
        w, self.p, self.stages = self.w, arrays, None
        times = jnp.arange(self.x.shape[1], dtype=self.x.dtype)
        if w.field == "fill":

            def fill(y):
                return diffrax.linear_interpolation(times, y, fill_forward_nans_at_end=True)

            self.compiled = jax.jit(lambda p, x: (jax.vmap(fill)(x)[None], 0))
            return
        find = jax.vmap(lambda y: diffrax.backward_hermite_coefficients(times, y))
        coefficients, start = find(self.x), jnp.tile(self.x[:, 0], w.widths[0] // self.x.shape[2])
        solver = {
            "midpoint": diffrax.Midpoint,
            "rk4": lambda: runge_kutta_4(diffrax),
            "dopri5": diffrax.Dopri5,
        }[w.method]()
        if w.method == "dopri5":
            control = diffrax.PIDController(rtol=100 * w.tol, atol=w.tol)
        else:
            control = diffrax.StepTo(times)

        def field(t, z, p):
            h = jnp.tanh(z @ p["w0"].T + p["b0"]) @ p["w1"].T + p["b1"]
            slope = jax.vmap(lambda c: diffrax.CubicInterpolation(times, c).derivative(t))
            return jnp.einsum("bhc,bc->bh", h.reshape(*z.shape, -1), slope(coefficients))

        def scalar(p, z):
            found = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                solver,
                times[0],
                times[-1],
                None,
                z,
                args=p,
                stepsize_controller=control,
                max_steps=4096 if w.method == "dopri5" else len(times) - 1,
            )
            return (found.ys[-1] ** 2).mean(), (found.ys[-1:], found.stats["num_steps"])

        self.x, self.stages = start, {"midpoint": 2, "rk4": 4, "dopri5": 6}[w.method]
        self.compiled = jax.jit(jax.grad(scalar, has_aux=True))

    def paths(self, arrays, unsafe):
        "The mean of paths of geometric Brownian motion, with one motion for each path."
        import diffrax
        import jax

        w, self.stages = self.w, None
        self.p = {name: arrays[name] for name in ("growth", "volatility")}
        dt = w.end / w.steps
        solver = diffrax.Euler() if w.method == "euler" else diffrax.ReversibleHeun()

        def solve(p, x):
            key = jax.random.PRNGKey(0)
            shape = jax.ShapeDtypeStruct(x.shape[:1], x.dtype)
            if unsafe:
                motion = diffrax.UnsafeBrownianPath(shape, key)
            else:
                motion = diffrax.VirtualBrownianTree(0.0, w.end, dt / 2, shape, key)
            drift = diffrax.ODETerm(lambda t, y, args: p["growth"] * y)
            noise = diffrax.ControlTerm(
                lambda t, y, args: lineax.DiagonalLinearOperator(p["volatility"] * y), motion
            )
            end = diffrax.diffeqsolve(
                diffrax.MultiTerm(drift, noise),
                solver,
                0.0,
                w.end,
                dt,
                x[:, 0],
                max_steps=w.steps + 1,
                adjoint=diffrax.DirectAdjoint() if unsafe else diffrax.RecursiveCheckpointAdjoint(),
            ).ys
            return end.mean(), (end.mean().reshape(1), 0)

        import lineax

        if self.gradient:
            self.compiled = jax.jit(jax.grad(solve, has_aux=True))
        else:
            self.compiled = jax.jit(lambda p, x: solve(p, x)[1])

    def run(self):
        found = self.jax.block_until_ready(self.compiled(self.p, self.x))
        gradient, (states, steps) = found if self.gradient else (None, found)
        if gradient is not None:
            gradient = np.concatenate([np.asarray(gradient[name]).reshape(-1) for name in self.p])
        return (
            states,
            gradient,
            self.stages and int(steps) * self.stages + (2 if self.w.method == "dopri5" else 0),
            0 if self.w.task != "reduced" else None,
        )

    def floor(self, n=50):
        if self.w.field in ("cde", "fill"):
            return None, None
        jax, x, g = self.jax, self.middle, self.x * 0 + 1

        def forward(p, x):
            return jax.lax.scan(lambda x, _: (x + 1e-6 * self.f(0.0, x, p), None), x, length=n)[0]

        def both(p, x):
            def body(carry, _):
                x, total = carry
                dx, vjp = jax.vjp(lambda p, x: self.f(0.0, x, p), p, x)
                gp, gx = vjp(g)
                return (x + 1e-6 * dx + 1e-9 * gx, jax.tree.map(jax.numpy.add, total, gp)), None

            return jax.lax.scan(body, (x, jax.tree.map(jax.numpy.zeros_like, p)), length=n)[0]

        if self.bare is None:
            self.bare = jax.jit(forward), jax.jit(both)
        found = [
            median_time(lambda: jax.block_until_ready(run(self.p, x))) / n
            for run in self.bare[: 1 + self.gradient]
        ]
        return found[0], found[-1]


def jax_field(w, jnp):
    def linear(p, i, x):
        return x @ p[f"w{i}"].T + p[f"b{i}"]

    def mlp(t, x, p):
        for i in range(len(w.widths) - 1):
            x = linear(p, i, x if i == 0 else jnp.tanh(x))
        return x

    def cnf(t, z, p):
        h, tangent = linear(p, 0, z[..., :-1]), p["w0"].T
        for i in (1, 2):
            h = jnp.tanh(h)
            tangent = (1 - h * h)[..., None, :] * tangent
            h, tangent = linear(p, i, h), tangent @ p[f"w{i}"].T
        return jnp.concatenate([h, jnp.trace(tangent, axis1=-2, axis2=-1)[..., None]], -1)

    def vdp(t, x, p):
        position, speed = x[..., 0], x[..., 1]
        return jnp.stack([speed, p["mu"] * (1 - position * position) * speed - position], -1)

    def robertson(t, x, p):
        back, fast = p["k"][2] * x[1] * x[2] - p["k"][0] * x[0], p["k"][1] * x[1] * x[1]
        return jnp.stack([back, -back - fast, fast])

    return {"mlp": mlp, "cnf": cnf, "vdp": vdp, "robertson": robertson}[w.field]


def runge_kutta_4(diffrax):
    class RungeKutta4(diffrax.AbstractERK):
        tableau = diffrax.ButcherTableau(
            a_lower=(np.array([0.5]), np.array([0, 0.5]), np.array([0, 0, 1.0])),
            b_sol=np.array([1, 2, 2, 1]) / 6,
            b_error=np.zeros(4),
            c=np.array([0.5, 0.5, 1.0]),
        )
        interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms):
            return 4

    return RungeKutta4()


# --- scipy ------------------------------------------------------------------------------------


def scipy_radau(w, arrays, rtol, atol, count=lambda: None):
    from scipy.integrate import solve_ivp

    k1, k2, k3 = arrays["k"].tolist()

    def field(t, x):
        count()
        a, b, c = x
        back, fast = k3 * b * c - k1 * a, k2 * b * b
        return back, -back - fast, fast

    return solve_ivp(
        field, (w.times[0], w.times[-1]), arrays["x"], "Radau", w.times, rtol=rtol, atol=atol
    ).y.T


class Scipy:
    package = "scipy"

    def __init__(self, threads):
        pass

    def prepare(self, w, options, arrays):
        self.w, self.arrays = w, arrays

    def count(self):
        self.nfe += 1

    def floor(self):
        return None, None

    def run(self):
        self.nfe = 0
        return (
            scipy_radau(self.w, self.arrays, self.w.tol, self.w.tol, self.count),
            None,
            self.nfe,
            0,
        )


# --- the process ------------------------------------------------------------------------------

PEERS = {
    "torchdyn": Torchdyn,
    "reference": Reference,
    "torchdiffeq": Torchdiffeq,
    "torchode": Torchode,
    "torchdyn1": Torchdyn1,
    "diffrax": Diffrax,
    "scipy": Scipy,
    "zuko": Zuko,
    "torchdeq": Torchdeq,
    "torchcde": Torchcde,
    "torchsde": Torchsde,
}


def answer(make, threads, prepared, do, slot="", **request):
    if do == "version":
        module = importlib.import_module(make.package)
        return {
            "version": getattr(module, "__version__", None)
            or importlib.metadata.version(make.package)
        }
    if do == "clear":
        prepared.clear()
        return {}
    if do == "prepare":
        w = request["workload"]
        w, peer = Workload(**{**w, "widths": tuple(w["widths"])}), make(threads)
        with np.load(request["data"]) as arrays:
            peer.prepare(w, request["options"], dict(arrays))
        start = time.perf_counter()
        states, gradient, forward, backward = peer.run()
        first = time.perf_counter() - start
        if len(states) != w.outputs:
            raise Unavailable(f"gave {len(states)} states for {w.outputs} times")
        np.savez(
            request["save"],
            states=np.asarray(states),
            **({} if gradient is None else {"gradient": np.asarray(gradient)}),
        )
        start = time.perf_counter()
        peer.run()
        prepared[slot], peer.middle = peer, states[len(states) // 2]
        return {
            "nfe": forward,
            "nfe_backward": backward,
            "first": first,
            "once": time.perf_counter() - start,
        }
    peer = prepared[slot]
    if do == "time":
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(request["n"]):
            peer.run()
        return {
            "cpu": (time.process_time() - cpu) / request["n"],
            "wall": (time.perf_counter() - wall) / request["n"],
        }
    return {"value": getattr(peer, do)()}


def main(name, threads):
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a peer prints is not an answer
    prepared = {}
    for line in sys.stdin:
        try:
            reply = answer(PEERS[name], threads, prepared, **json.loads(line))
        except Unavailable as e:
            reply = {"unavailable": str(e)}
        except Exception as e:
            reply = {
                "unavailable": f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[
                    :200
                ]
            }
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
