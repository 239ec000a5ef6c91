"""Certify a classifier built with torchdeq: it joins by four methods, its weights untouched."""

import torch
from torch import Tensor
from torchdeq import get_deq

import deqcert


class TorchdeqClassifier(torch.nn.Module):
    """An ordinary torchdeq model over 8 x 8 digits, with four methods added for deqcert."""

    input_shape = (1, 8, 8)
    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.encode = torch.nn.Linear(64, 48)
        self.layer = torch.nn.Linear(48, 48)
        self.decode = torch.nn.Linear(48, 10)
        torch.nn.init.normal_(self.layer.weight, std=0.05)
        self.deq = get_deq(ift=True, f_tol=1e-4, f_stop_mode="rel")

    def forward(self, x: Tensor) -> Tensor:  # what its author trains
        injection = self.inject(x)
        (z,), _ = self.deq(lambda z: self.cell(z, injection), self.initial_state(injection))
        return self.readout(z)

    def inject(self, x: Tensor) -> Tensor:
        return self.encode(x.flatten(1) - 0.5)

    def initial_state(self, injection: Tensor) -> Tensor:
        return torch.zeros_like(injection)

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        return torch.tanh(self.layer(z) + injection)

    def readout(self, z: Tensor) -> Tensor:
        return self.decode(z)


def train(model: torch.nn.Module, sigma: float) -> None:
    data = deqcert.load_dataset("digits", split="train")
    x = torch.stack([torch.as_tensor(data.image(i)) for i in range(len(data))])
    y = torch.tensor([data.label(i) for i in range(len(data))])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        batch = torch.randint(len(x), (128,))
        noisy = x[batch] + sigma * torch.randn_like(x[batch])
        loss = torch.nn.functional.cross_entropy(model(noisy), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


torch.manual_seed(0)
sigma = 0.25
model = TorchdeqClassifier()
train(model, sigma)

test = deqcert.load_dataset("digits", split="test")
# The grid that the pixels lie on: noise is exact on it.
smooth = deqcert.SmoothedClassifier(model, sigma=sigma, n=1000, batch=500, levels=test.levels)
for i in range(5):
    certificate = smooth.certify(test.image(i), i)
    print(
        f"digit {test.label(i)}: predicted {certificate.prediction}, "
        f"radius {certificate.radius:.3f}, {certificate.nfe / 1100:.1f} evaluations per sample"
    )
print(certificate.assumptions)
