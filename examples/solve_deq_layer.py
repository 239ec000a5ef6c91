"""A deep equilibrium layer in fifteen lines, trained on two moons."""

import torch
from sklearn.datasets import make_moons
from torch import nn

from deqcert.solvers import StopRule, solve


class DEQ(nn.Module):
    """z* = tanh(W z* + U x + b), then a linear readout."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.inject, self.head = nn.Linear(inputs, width), nn.Linear(width, classes)
        self.mix = nn.utils.parametrizations.spectral_norm(nn.Linear(width, width, bias=False))

    def cell(self, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(0.8 * self.mix(z) + u)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.inject(x)
        return self.head(solve(self.cell, torch.zeros_like(u), u, stop=StopRule(1e-4)).z)


torch.manual_seed(0)
points, labels = make_moons(400, noise=0.1, random_state=0)
x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
model = DEQ(2, 32, 2)
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
for _step in range(100):
    loss = nn.functional.cross_entropy(model(x), y)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
accuracy = (model.eval()(x).argmax(1) == y).float().mean()
print(f"loss {loss.item():.3f}, accuracy {accuracy:.1%}")
