"""A solver and a gradient from outside the package are as good as those built in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from deqcert import kernels
from deqcert.bench.solvers import bench_solvers
from deqcert.cli import main
from deqcert.errors import ConfigError
from deqcert.options import number, options_of
from deqcert.solvers import SOLVERS, Solver, State, StopRule, get_solver, register_solver, solve
from deqcert.solvers.gradients import GRADIENTS, Phantom


@dataclass(slots=True)
class Velocity(State):
    last: Tensor


@dataclass(frozen=True)
class Momentum(Solver[Velocity]):
    """Repeat a share of the last step.

    Args:
        share: How much of it.
    """

    share: float = number(0.2, low=0.0, below=1.0)
    name: ClassVar[str] = "momentum"

    def init(self, z):
        return Velocity(torch.zeros_like(z))

    def step(self, z, fz, state, out, watch=None):
        last = kernels.judge(z, fz, out, watch)
        state.last.mul_(self.share).add_(fz - z)
        torch.add(z, state.last, out=out)
        kernels.finish(out, watch, last)


@pytest.fixture
def momentum():
    yield register_solver(Momentum).name
    SOLVERS.unregister("momentum")


def test_it_is_there_by_name_with_its_options(momentum):
    assert SOLVERS.names()[-1] == momentum
    assert options_of(SOLVERS.get(momentum))["share"].help == "How much of it."
    with pytest.raises(ConfigError, match="share is 1, but it must be a number from 0 to below 1"):
        get_solver(momentum, share=1)
    with pytest.raises(ConfigError, match="did you mean momentum"):
        get_solver("momentun")


def test_it_solves_with_gradients_and_rows_that_end_on_their_own(momentum):
    x = torch.linspace(0.0, 2.0, 12, dtype=torch.float64).reshape(4, 3).requires_grad_()
    stop = StopRule(tol=1e-10, max_nfe=100)

    def solved(x):
        return solve(lambda z, x: x * torch.cos(0.5 * z), torch.zeros_like(x), x,
                     method=momentum, stop=stop).z  # fmt: skip

    assert torch.autograd.gradcheck(solved, x)
    found = solve(lambda z, x: x * torch.cos(0.5 * z), torch.zeros_like(x), x, method=momentum)
    assert len(set(found.nfe.tolist())) > 1


def test_it_works_inside_torchdeq_also_when_registered_later(momentum):
    from torchdeq import get_deq

    import deqcert.solvers.torchdeq  # noqa: F401

    SOLVERS.unregister("momentum")
    register_solver(Momentum)
    (z, *_), info = get_deq(f_solver="deqcert_momentum", f_tol=1e-6, f_max_iter=60)(
        torch.cos, torch.ones(3, 2)
    )
    torch.testing.assert_close(z, torch.full((3, 2), 0.739085), rtol=1e-5, atol=0)
    assert (info["status"] == 0).all()


def test_it_is_known_to_the_command_line(momentum, tmp_path, capsys):
    run = "certify --model digits --data digits --images 0:1 --sigma 0.25 --n 60 --n0 10 --solver "
    run += momentum
    out = ["--out", str(tmp_path / "run")]
    assert main([*run.split(), "--solver-option", "share=0.1", *out]) == 0, capsys.readouterr().err
    bad = [*run.split(), "--solver-option", "share=2", "--out", str(tmp_path / "bad")]
    assert main(bad) == 2
    assert "share is 2" in capsys.readouterr().err


def test_its_cost_can_be_measured(momentum):
    (timing,) = bench_solvers([momentum], [16], [2], iterations=4, rounds=1).timings
    assert timing.solver == momentum
    assert timing.ours == timing.ours
    assert timing.torchdeq != timing.torchdeq
    with pytest.raises(ConfigError, match="no solver 'nobody'"):
        bench_solvers(["nobody"], [16], [2])


def test_registering_again_replaces_and_another_class_may_not(momentum):
    assert register_solver(Momentum) is Momentum

    @dataclass(frozen=True)
    class Impostor(Momentum):
        pass

    with pytest.raises(ConfigError, match="there is a solver 'momentum' already"):
        register_solver(Impostor)


class NoDataclass(Momentum):
    name = "none"


@dataclass(frozen=True)
class NoDefault(Solver[Velocity]):
    size: int
    name: ClassVar[str] = "no-default"
    init = step = None


@dataclass(frozen=True)
class NoName(Solver[Velocity]):
    init = step = None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (NoDataclass, "put @dataclass"),
        (NoDefault, "has no default"),
        (NoName, "has no name"),
        (int, "derive it from"),
        (Momentum(), "derive it from"),
    ],
)
def test_what_is_no_solver_is_refused_in_a_sentence(given, says):
    with pytest.raises(ConfigError, match=says):
        register_solver(given)


def test_a_gradient_joins_by_name_as_well():
    @dataclass(frozen=True)
    class OneStep(Phantom):
        """One evaluation at the solution."""

        name: ClassVar[str] = "one-step"
        steps: int = number(1, low=1)
        damping: float = number(1.0, above=0.0, high=1.0)

    GRADIENTS.register("one-step", OneStep)
    try:
        x = torch.ones(2, 3, requires_grad=True)
        z = solve(lambda z, x: 0.5 * z + x, torch.zeros(2, 3), x, adjoint="one-step").z
        z.sum().backward()
        assert torch.equal(x.grad, torch.ones(2, 3))
    finally:
        GRADIENTS.unregister("one-step")


@dataclass(frozen=True)
class Halved:
    """An unrolling of one's own: every evaluation goes half of the way."""

    name: ClassVar[str] = "halved"
    solves: ClassVar[bool] = False
    steps: int = number(8, low=1)

    def solve(self, f, z0, context, solver, stop):
        z = z0
        for _ in range(self.steps):
            z = (z + f(z, *context)) / 2
        return z, None


def test_an_unrolling_from_outside_is_one_like_ours():
    def f(z, c):
        return torch.tanh(z) / 2 + c

    GRADIENTS.register("halved", Halved)
    try:
        for adjoint in ("halved", "unroll", Halved(12)):
            start, c = (torch.full((3, 4), 0.1, requires_grad=True) for _ in range(2))
            found = solve(f, start, c, adjoint=adjoint, stop=StopRule(tol=0, max_nfe=12))
            assert found.nfe.tolist() == [12] * 3  # as many evaluations as the stop rule says
            found.z.sum().backward()
            assert start.grad.abs().min() > 0  # through the start, too
            with torch.no_grad():
                again = solve(f, start, c, adjoint=adjoint, stop=StopRule(tol=0, max_nfe=12))
            torch.testing.assert_close(again.z, found.z)
    finally:
        GRADIENTS.unregister("halved")


def test_names_are_known_without_torch():
    code = (
        "import sys; from deqcert.solvers import SOLVERS; from deqcert.solvers.gradients import "
        "GRADIENTS; assert 'anderson' in SOLVERS and 'implicit' in GRADIENTS; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
