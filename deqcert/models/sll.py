"""SDP-based Lipschitz layers: convolutions that never move two inputs apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.models.of_weights import OfWeights
from deqcert.models.spectral import UNIT, rounding_constant

MARGIN = 1.0 + 1e-9
"""More than the rounding of the norms and sums that bounds are put together from."""

SMALLEST = 2.0**-20
"""Added to every entry of T, so that a channel whose weights are zero divides by something."""


@dataclass(frozen=True)
class LayerRounding:
    """What float64 does to a layer.

    Attributes:
        narrow: Per unit of the input, error of B'x in l2.
        widen: Per unit of the hidden state, error of B z in l2.
    """

    narrow: float
    widen: float


class SLLConv(nn.Module):
    """x - 2 B relu(B'x + b + h) with B = W T^(-1/2), of which ||B||_2 <= 1 whatever W is.

        T_i = sum over j of |W'W|_ij q_j / q_i, and 2^-20 more

    makes T - W'W diagonally dominant after a diagonal similarity, so W'W <= T. The matrix W'W of a
    convolution holds the correlations of its kernels, the same around every pixel; T is computed
    from these, of the unbounded plane. Images are padded with zeros: as a convolution of the plane
    between inputs and outputs that are cut off, it has no larger norm.

    For h = 0 the layer is 1-Lipschitz in x. relu commutes with T^(1/2), so this is the layer of the
    literature, x - 2 W T^-1 relu(W'x + b'), its hidden state scaled by T^(-1/2).

    Args:
        channels: Channels of x.
        hidden: Channels of the hidden state.
        kernel: Height and width of the kernels; odd.

    **Source:** A. Araujo, A. Havens, B. Delattre, A. Allauzen, B. Hu, "A Unified Algebraic
    Perspective on Lipschitz Neural Networks" (2023), theorem 3; as equilibrium models, A. Havens,
    A. Araujo, S. Garg, F. Khorrami, B. Hu, "Exploiting Connections between Lipschitz Structures for
    Certifiably Robust Deep Equilibrium Models" (2023).
    """

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden, channels, kernel, kernel))
        nn.init.orthogonal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.root_q = nn.Parameter(torch.ones(hidden))
        self._known = OfWeights[Tensor]()
        self._rounded: tuple[Tensor, LayerRounding] | None = None

    def multiplier(self) -> Tensor:
        """Return T, shape (hidden,), in the type of the weights, with gradients."""
        q = self._q()
        correlations = F.conv2d(self.weight, self.weight, padding=self.weight.shape[2] - 1)
        multiplier: Tensor = (correlations.abs().sum(dim=(2, 3)) @ q) / q + SMALLEST
        return multiplier

    def kernel(self) -> Tensor:
        """Return B' = T^(-1/2) W' as kernels, shape (hidden, channels, k, k).

        With gradients where those of the weights are recorded; else kept until the weights change.
        """
        shaping = (self.weight, self.root_q)
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in shaping):
            return self._kernel()
        with torch.inference_mode(False), torch.no_grad():
            return self._known.get(shaping, self._kernel)

    def narrow(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Return B'x + b: (B, channels, H, W) to (B, hidden, H, W)."""
        return F.conv2d(x, kernel, self.bias, padding=kernel.shape[2] // 2)

    def widen(self, z: Tensor, kernel: Tensor) -> Tensor:
        """Return B z: (B, hidden, H, W) to (B, channels, H, W)."""
        return F.conv_transpose2d(z, kernel, padding=kernel.shape[2] // 2)

    @torch.no_grad()
    def rounding(self) -> LayerRounding:
        """Bound what float64 does to the layer; its weights are float64."""
        kernel = self.kernel()
        # The same object as long as the weights are the same.
        if self._rounded is None or self._rounded[0] is not kernel:
            hidden, channels, side, _ = kernel.shape
            relative, taps, size = self._kernel_error(), side * side, kernel.abs()
            # Schur's test: rows and columns of |B| bound its norm, and that of what is rounded.
            sums = size.sum(dim=(1, 2, 3)).max() * size.sum(dim=(0, 2, 3)).max()
            absolute = MARGIN * MARGIN * math.sqrt(sums.item())
            narrow = absolute * (rounding_constant(channels * taps + 4) + relative)
            widen = absolute * (rounding_constant(hidden * taps + 4) + relative)
            self._rounded = kernel, LayerRounding(narrow, widen)
        return self._rounded[1]

    def _kernel(self) -> Tensor:
        return self.weight / self.multiplier().sqrt()[:, None, None, None]

    def _q(self) -> Tensor:
        """Return q > 0; a square and a sum, which arithmetic rounds in a known way."""
        return self.root_q.square() + 1e-3

    def _kernel_error(self) -> float:
        """Bound the relative error of the elements of B that float64 computes.

        A correlation is an inner product of at most ``channels * k * k`` terms, so off by gamma
        times ||W_i|| ||W_j|| (Cauchy and Schwarz), for each of its (2k - 1)^2 offsets; sums of
        numbers that are not negative add relative errors only.
        """
        hidden, channels, side, _ = self.weight.shape
        offsets = (2 * side - 1) ** 2
        sizes = torch.linalg.vector_norm(self.weight.double().flatten(1), dim=1)
        q = self._q().double()
        most = sizes * (sizes @ q) / q
        off = (most / self.multiplier().double()).max().item()
        relative = rounding_constant(channels * side * side + 4) * offsets * off
        relative += rounding_constant(hidden * offsets + 16)
        return float(MARGIN * (relative + 4.0 * UNIT))


@torch.no_grad()
def through(
    layers: Iterable[SLLConv], size: Tensor, fed: Tensor, off: Tensor | float, pixels: int
) -> tuple[Tensor, Tensor]:
    """Bound what float64 does on the way through SLL layers.

    An exact layer moves no two inputs apart, so errors add up; and it moves 0 by no more than
    2 (||b|| + ||h||), so norms do.

    Args:
        layers: The layers.
        size: Bound of the norm of what enters, shape (B,).
        fed: Bound of the norm of what is fed back, over all layers, shape (B,).
        off: Bound of its error.
        pixels: Places of the stream.

    Returns:
        The same bound of what leaves, and the error of all hidden states and of what leaves
        together; both of shape (B,).
    """
    few = rounding_constant(6)
    error = torch.zeros_like(size)
    total = torch.zeros_like(size)
    for layer in layers:
        known = layer.rounding()
        bias = MARGIN * math.sqrt(pixels) * torch.linalg.vector_norm(layer.bias.double()).item()
        state = MARGIN * (size + bias + fed)
        inner = known.narrow * size + few * (bias + fed + state) + off
        total = total + error + inner
        error = error + 2.0 * inner + 2.0 * known.widen * state + few * (size + 2.0 * state)
        size = MARGIN * (size + 2.0 * (bias + fed)) + error
    return size, total + error
