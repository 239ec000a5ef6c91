"""Solve a fixed point over torch tensors: any shape, or a tuple of tensors."""

import torch

from deqcert.solvers import Status, StopRule, solve

torch.manual_seed(0)
w = torch.randn(16, 16) * 0.2
x = torch.randn(8, 16)

# The context x is given beside the state, so that rows that are done are not evaluated again.
result = solve(lambda z, x: torch.tanh(z @ w + x), torch.zeros(8, 16), x, method="anderson")
for row in range(3):
    print(
        f"row {row}: {Status(int(result.status[row])).name} after {int(result.nfe[row])} "
        f"evaluations, residual {result.residual[row]:.1e}"
    )


# Two coupled tensors of different shapes.
def coupled(state: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    image, vector = state
    return torch.cos(image) * vector[:, :1, None] * 0.5, 0.3 * torch.sin(vector) + image.mean(2)


start = (torch.zeros(4, 3, 5), torch.ones(4, 3))
image, vector = solve(coupled, start, method="broyden", stop=StopRule(tol=1e-5, max_nfe=50)).z
print("coupled:", tuple(image.shape), tuple(vector.shape))
