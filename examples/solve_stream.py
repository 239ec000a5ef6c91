"""A stream of related problems: each solve begins where the one before ended.

Frames of a moving picture, a sweep of a parameter, and the masks of Monte Carlo dropout, each
through the same small equilibrium model, cold and with warm=.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from deqcert.solvers import StopRule, Warm, solve

torch.manual_seed(0)
width, stop = 64, StopRule(tol=1e-5, max_nfe=100)
weight = torch.linalg.qr(torch.randn(width, width))[0] * 0.9


def cell(z: Tensor, injection: Tensor) -> Tensor:
    return torch.tanh(z @ weight + injection)


def compare(name: str, stream: Sequence[Tensor]) -> None:
    """Solve a stream of injections twice, and print what warm starts save."""
    cold = [solve(cell, torch.zeros_like(one), one, stop=stop) for one in stream]
    memory = Warm()
    warm = [solve(cell, torch.zeros_like(one), one, stop=stop, warm=memory) for one in stream]
    assert all(result.converged.all() for result in (*cold, *warm))
    apart = max(float((a.z - b.z).abs().max()) for a, b in zip(cold, warm, strict=True))
    spent = sum(int(result.nfe.sum()) for result in cold)
    print(
        f"{name}: {spent} evaluations cold, {memory.nfe} warm, "
        f"{1 - memory.nfe / spent:.0%} saved; solutions differ by at most {apart:.0e}"
    )


# Eight regions of a picture that drifts: each frame is 0.02 further.
start, motion = torch.randn(2, 8, width)
compare("video frames", [start + 0.02 * frame * motion for frame in range(40)])

# One model at 60 strengths of its input.
compare("parameter sweep", [scale * start for scale in torch.linspace(0.5, 1.5, 60)])

# Dropout of 2% of the input, another mask each time.
masks = (torch.rand(40, 8, width) > 0.02).float()
compare("dropout masks", [start * mask for mask in masks])
