"""An equilibrium of one relu layer as matrices: z = relu(W z + U x + u), logits C z + c."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReluForm:
    """What proofs read of a model.

    Attributes:
        state: W, shape (D, D), float64.
        input: U, shape (D, C*H*W), float64: from pixels in [0, 1], normalisation included.
        readout: C, shape (K, D), float64.
        monotone: m > 0 such that (I - W + (I - W)') / 2 has no eigenvalue below m in exact
            arithmetic on the stored weights, rounded down.
        state_error: Largest spectral norm of W minus the exact one.
        input_error: The same for U.
        bias: u, shape (D,), float64, of pixels in [0, 1], normalisation included.
        bias_error: Largest l2 distance of u to the exact one.
        offset: c, shape (K,), float64.
    """

    state: Tensor
    input: Tensor
    readout: Tensor
    monotone: float
    state_error: float
    input_error: float
    bias: Tensor
    bias_error: float
    offset: Tensor


def classical_slopes(readout: Tensor, entering: Tensor, monotone: Tensor | float) -> Tensor:
    """Return ||c_i - c_j|| ||U|| / m, with gradients where they are recorded; nothing is charged.

    Args:
        readout: C, shape (K, D).
        entering: U of plain pixels, shape (D, C*H*W).
        monotone: m.

    Returns:
        Shape (K, K), 0 on the diagonal.

    **Source:** C. Pabbaraju, E. Winston, J. Z. Kolter, "Estimating Lipschitz constants of monotone
    deep equilibrium models" (2021).
    """
    # By the smaller Gram matrix: the gradient of a largest singular value needs its vectors only.
    size = torch.linalg.eigvalsh(entering @ entering.T)[-1].sqrt()
    apart = (readout[:, None] - readout[None]).square().sum(dim=2)
    other = apart > 0.0  # elsewhere a norm has no gradient
    distances = torch.where(other, torch.where(other, apart, 1.0).sqrt(), 0.0)
    return distances * size / monotone
