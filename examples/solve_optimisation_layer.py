"""A quadratic program as a layer: its data is learned from solutions alone.

minimise 1/2 z'Pz + q'z subject to z >= 0 is the fixed point of projected gradient descent,
z = relu(z - step (Pz + q)). Every row is a program with a q of its own; P, shared, is unknown, and
is found again from (q, z*) pairs by descending through the solver.
"""

import torch

from deqcert.solvers import StopRule, solve

torch.manual_seed(0)
size, stop = 6, StopRule(tol=1e-8, max_nfe=300)


def descent(z: torch.Tensor, q: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    step = 1.0 / torch.linalg.matrix_norm(matrix.detach(), 2)
    return torch.relu(z - step * (z @ matrix + q))


def program(q: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Solve the program of each row of q; P = factor' factor + 1/2 is positive definite."""
    matrix = factor.T @ factor + 0.5 * torch.eye(size, dtype=q.dtype)
    return solve(lambda z, q: descent(z, q, matrix), torch.zeros_like(q), q, stop=stop).z


true = torch.randn(size, size, dtype=torch.float64) * 0.5
q = torch.randn(256, size, dtype=torch.float64)
wanted = program(q, true)
factor = torch.eye(size, dtype=torch.float64).requires_grad_()
optimiser = torch.optim.Adam([factor], lr=0.03)
for number in range(151):
    loss = (program(q, factor) - wanted).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if number % 50 == 0:
        print(f"step {number}: mean squared error of the solutions {loss.item():.1e}")
error = torch.linalg.matrix_norm(factor.T @ factor - true.T @ true) / torch.linalg.matrix_norm(
    true.T @ true
)
print(f"active constraints: {(wanted == 0).double().mean():.0%}")
print(f"relative error of the matrix found: {error.item():.1e}")
