"""Few evaluations that say what the equilibrium says."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from deqcert.options import number, text
from deqcert.training.objectives.base import Objective, TrainingBatch


@dataclass(frozen=True)
class Faithful(Objective):
    """Cross-entropy of a noisy copy, and how far the first evaluations are from its equilibrium.

    With ``p`` the converged prediction for ``x + e`` and ``p_k`` that after k evaluations:
    ``-log p(y) + weight * (1/steps) sum_k KL(p || p_k)``, where ``p`` in the divergence is held
    fixed: the first evaluations learn from the equilibrium, not it from them. For a checkpoint that
    is there (``init``, with a pre-training share of 0); what it leaves is another model, with
    another hash.

    Args:
        sigma: Standard deviation of the noise.
        steps: Evaluations that are held against the equilibrium: the first, the second, and so on.
            They are plain ones; the first of Anderson's is the same.
        weight: Of the divergence.
        start: File of the learned start that belongs to the checkpoint that is begun with. The
            evaluations then begin there, and it is saved beside the new model, too. Without it they
            begin cold.

    **Source:** the divergence is that of G. Hinton, O. Vinyals, J. Dean 2015, "Distilling the
    Knowledge in a Neural Network", at temperature 1, with the model as its own teacher.
    """

    steps: int = number(1, low=1, high=100)
    weight: float = number(3.0, low=0.0, high=1e6)
    start: str | None = text(None, metavar="FILE")

    def start_file(self) -> str | None:
        """Return the start network that the evaluations begin at; see :class:`Objective`."""
        return self.start

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        noisy = batch.x + self.noise(batch, 1)[0]
        logits = batch.forward(noisy)
        target = logits.detach().log_softmax(dim=1)
        quick = batch.quick(noisy, self.steps).log_softmax(dim=2)
        divergence = (target.exp() * (target - quick)).sum(dim=2).mean()
        return F.cross_entropy(logits, batch.y) + self.weight * divergence
