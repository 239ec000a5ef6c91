"""Use deqcert's solvers inside a torchdeq model, forward and backward."""

import torch
from torchdeq import get_deq

import deqcert.solvers.torchdeq  # noqa: F401  (importing it registers the solvers)

torch.manual_seed(0)
layer = torch.nn.Linear(16, 16)
torch.nn.init.normal_(layer.weight, std=0.1)
x = torch.randn(8, 16)

deq = get_deq(f_solver="deqcert_anderson", b_solver="deqcert_broyden", f_stop_mode="rel", ift=True)
(z,), info = deq(lambda z: torch.tanh(layer(z) + x), torch.zeros_like(x))
z.square().mean().backward()
print("evaluations per row:", info["nfe"].tolist())
print(f"largest relative residual: {info['rel_lowest'].max():.1e}")
print(f"gradient of the weights: {layer.weight.grad.norm():.4f}")
