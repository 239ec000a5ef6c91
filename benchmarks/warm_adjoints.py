"""What starting from the last pass over the same rows saves, forward and backward.

    python benchmarks/warm_adjoints.py
    python benchmarks/warm_adjoints.py --model mdeq.pth.tar --data folder:DIR --images 0:10000:500

An l2 PGD with fixed noise takes eight steps; printed are mean evaluations per row over steps 2 to
8 of forward solves (cold, and from the last state) and adjoint solves (from zero, from the right-
hand side b', from the last adjoint g, and from b' + c (g - b), which is what AdjointMemory does).
"""

from __future__ import annotations

from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

import deqcert
from deqcert.api import parse_images
from deqcert.attacks.pgd import pgd
from deqcert.models import ImplicitModel
from deqcert.solvers import Anderson, SolveResult, StopRule
from deqcert.solvers.gradients import equilibrium
from deqcert.solvers.gradients.adjoint import AdjointMemory
from deqcert.solvers.gradients.implicit import Implicit

STEPS = 8


class Zero(AdjointMemory):
    """Start every adjoint at zero."""

    def start(self, grad: Tensor) -> Tensor:
        return torch.zeros_like(grad)


class RightHandSide(AdjointMemory):
    """Start every adjoint at its right-hand side."""

    def start(self, grad: Tensor) -> Tensor:
        return grad


class Last(AdjointMemory):
    """Start every adjoint at the last one."""

    def start(self, grad: Tensor) -> Tensor:
        return grad if self._adjoint is None else self._adjoint


class Counted(Anderson):
    """Anderson acceleration that tells what its solves cost."""

    def solve(self, *given: Any, **more: Any) -> SolveResult:
        result = super().solve(*given, **more)
        costs.append(float(result.nfe.float().mean()))
        return result


costs: list[float] = []


def measure(
    model: ImplicitModel,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    stop: StopRule,
    memory: AdjointMemory,
    warm: bool,
) -> tuple[float, float]:
    """Attack the rows; return mean evaluations per row and step, forward and backward."""
    costs.clear()
    forward: list[float] = []
    last: Tensor | None = None
    gradient = Implicit(Counted(), stop, memory)

    def loss(points: Tensor) -> Tensor:
        nonlocal last
        injection = model.inject(points)
        begin = model.initial_state(injection) if last is None or not warm else last
        z, result = equilibrium(
            model.cell, begin, injection, solver=Anderson(), stop=stop, gradient=gradient
        )
        assert result is not None
        last = result.z.detach()
        forward.append(float(result.nfe.float().mean()))
        return F.cross_entropy(model.readout(z), y, reduction="none")

    pgd(loss, x, radius=radius, steps=STEPS)
    return sum(forward[1:]) / (STEPS - 1), sum(costs[1:]) / (STEPS - 1)


@click.command()
@click.option("--model", "name", default="digits", show_default=True)
@click.option("--data", default="digits", show_default=True)
@click.option("--images", default="0:100", show_default=True)
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--max-nfe", default=50, show_default=True)
def main(name: str, data: str, images: str, sigma: float, max_nfe: int) -> None:
    torch.manual_seed(0)
    model: Any = deqcert.load_model(name)
    dataset = deqcert.load_dataset(data)
    indices = parse_images(images, len(dataset))
    x = torch.as_tensor(dataset.batch(indices))
    y = torch.tensor([dataset.label(i) for i in indices])
    noise = sigma * torch.randn_like(x)

    class Noisy:
        initial_state, cell, readout = model.initial_state, model.cell, model.readout

        @staticmethod
        def inject(points: Tensor) -> Tensor:
            return model.inject(points + noise)

    print("| radius | tol | forward: cold | warm | adjoint: from zero | b' | g | b' + c (g - b) |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for radius, tol in ((0.5, 1e-2), (0.5, 1e-3), (0.125, 1e-3)):
        stop = StopRule(tol=tol, max_nfe=max_nfe)

        def run(memory: AdjointMemory, warm: bool = True) -> tuple[float, float]:
            return measure(Noisy(), x, y, radius=radius, stop=stop, memory=memory, warm=warm)  # noqa: B023

        cold = run(Zero(), warm=False)[0]
        kinds = (Zero(), RightHandSide(), Last(), AdjointMemory())
        warm, *adjoints = run(kinds[0])
        adjoints += [run(kind)[1] for kind in kinds[1:]]
        figures = " | ".join(f"{value:.2f}" for value in (cold, warm, *adjoints))
        print(f"| {radius} | {tol:g} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
