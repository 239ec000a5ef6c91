"""Attacks held against a proof: another class inside a radius is proven itself, and no chance."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from deqcert.attacks.ball import column, distances, project
from deqcert.attacks.base import Attack
from deqcert.attacks.base import margin as other_lead
from deqcert.attacks.evaluation.alarm import Alarm
from deqcert.attacks.evaluation.base import Evaluation, Group, check_certified, radii_up_to
from deqcert.attacks.evaluation.certified import CertifiedImage
from deqcert.attacks.evaluation.counterexample import Counterexample
from deqcert.attacks.evaluation.outcome import Outcome
from deqcert.attacks.target import Target
from deqcert.certifiers.certificate import Norm
from deqcert.proofs.enclosure import UNPROVEN, Enclosure, Leads
from deqcert.smoothing import Predictor
from deqcert.solvers import StopRule, get_solver
from deqcert.starts import get_start

if TYPE_CHECKING:
    from deqcert.models.base import ImplicitModel

TOL = 1e-10
"""Relative residual that ends the solve of a verdict; what is left of the error is bounded."""
DEPTH = 1000
"""Most cell evaluations of one."""
CLIMB = StopRule(tol=1e-6, max_nfe=200)
"""How well the attacks solve what they climb on; they prove nothing."""
HALVINGS = 10
"""Halvings of a segment from an image to a point of another class."""
UP = 1.0 + 1e-12
"""More than rounding can take away from a distance in float64."""


@dataclass(frozen=True, slots=True)
class ProvenVerdict:
    """What is proven of the exact equilibrium at a point.

    Attributes:
        leader: Its class.
        lead: Lower bound of how much that one's logit exceeds the certified class's.
        error: Bound of the distance between the state that was found and the exact one.
    """

    leader: int
    lead: float
    error: float

    def words(self, answer: int) -> str:
        """Say what speaks against the certified class."""
        return f"proven, its logit leads by more than {self.lead:.3g}"

    def facts(self) -> dict[str, Any]:
        """Return what else it takes to see it again."""
        return {"state error": f"{self.error:.1e}"}

    def arrays(self) -> dict[str, Any]:
        """Return what an alarm's file holds of it."""
        return {"lead": self.lead, "error": self.error}


@dataclass(frozen=True, kw_only=True)
class ProvenEvaluation(Evaluation):
    """Attacks, and the exact equilibrium that they are held against; make it by :meth:`of_run`.

    Args:
        enclosure: Proves the class of the exact equilibrium.
    """

    enclosure: Enclosure

    @classmethod
    def of_run(
        cls,
        model: ImplicitModel,
        attacks: Sequence[Attack],
        images: Sequence[CertifiedImage],
        *,
        norm: Norm,
        reach: float | None = None,
        rows: int = 256,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make the evaluation of a run whose certificates are proofs.

        Args:
            model: What was certified, in a form that gradients can go through.
            attacks: One or more, each name once.
            images: The images of the run, one of them with a certificate at least.
            norm: Of the certificates.
            reach: Largest radius attacked, above 0; twice the largest certified one if not given.
            rows: Points that are differentiated together, from 1.
            seed: Decides all that is random.
            facts: What an alarm must name besides norm and seed.

        Raises:
            ConfigError: If no image has a certificate, the model's residual bounds no error, an
                attack needs noise or another norm, or a value is out of range.
        """
        check_certified(images)
        grid = radii_up_to(2.0 * max(image.radius for image in images) if reach is None else reach)
        enclosure = Enclosure(model, "the attack of a proof")
        if isinstance(enclosure.model, torch.nn.Module):
            enclosure.model.requires_grad_(False)  # only images are differentiated
        predictor = Predictor(get_solver("anderson"), CLIMB, get_start("cold"))
        target = Target(enclosure.model, predictor, None, seed)
        return cls(
            enclosure=enclosure,
            target=target,
            attacks=attacks,
            grid=grid,
            norm=norm,
            rows=rows,
            facts={**(facts or {}), "norm": norm, "seed": seed},
        )

    def outcomes(self, group: Group) -> list[Outcome]:
        """Attack images together, and return what was found per image; :meth:`run` calls it."""
        began = time.perf_counter()
        images, x = group.images, group.x
        radius = torch.tensor([image.radius for image in images], dtype=torch.float64)
        here = self.enclosure.solve(x, tol=TOL, depth=DEPTH)
        answers = torch.tensor(
            [
                int(here.best[i]) if image.prediction is None else image.prediction
                for i, image in enumerate(images)
            ]
        )
        ahead = -other_lead(here.logits, answers)
        numbers: list[dict[str, float]] = [{} for _ in images]
        alarms: list[list[Alarm]] = [[] for _ in images]
        for attack in self.attacks:
            points = self.points(
                attack, x, images, answers.tolist(), torch.device("cpu"), torch.float64
            )
            leads, nearest = self._reached(x, answers, radius, here, ahead, points)
            for i, image in enumerate(images):
                found = nearest[i]
                numbers[i][f"norm:{attack.name}"] = math.inf if found is None else found.distance
                numbers[i][f"lead:{attack.name}"] = leads[i]
                if found is None or image.radius <= 0.0 or found.distance * UP > image.radius:
                    continue
                alarms[i].append(
                    Alarm(
                        index=image.index,
                        label=group.labels[i],
                        answer=int(answers[i]),
                        radius=image.radius,
                        attack=attack,
                        x=x[i].numpy(),
                        counterexample=found,
                        facts=self.facts,
                    )
                )
        seconds = (time.perf_counter() - began) / len(images)
        return [
            Outcome(
                idx=image.index,
                label=group.labels[i],
                answer=int(answers[i]),
                radius=image.radius,
                base=int(here.classes[i]),
                numbers=numbers[i],
                alarms=tuple(alarms[i]),
                seconds=seconds,
                columns=self.layout.columns,
            )
            for i, image in enumerate(images)
        ]

    def _reached(
        self, x: Tensor, answers: Tensor, radius: Tensor, here: Leads, ahead: Tensor, points: Tensor
    ) -> tuple[list[float], list[Counterexample | None]]:
        """Judge what an attack found on each image, inside the certified ball and anywhere.

        Args:
            x: The images, shape (N, C, H, W).
            answers: The certified classes, shape (N,).
            radius: The certified radii, shape (N,).
            here: What is proven at the images.
            ahead: By how much the certified class leads there, shape (N,).
            points: What the attack found, shape (N, P, C, H, W).

        Returns:
            Per image the largest lead of another class inside the certified radius, as a share of
            the certified class's lead at the image, -1 to 1; and the nearest point that is proven
            to have another class, or None.
        """
        each = points.shape[1]
        centre = x.repeat_interleave(each, dim=0)
        balls = radius.repeat_interleave(each)
        inner = project(points.flatten(0, 1), centre, balls, self.norm).view_as(points)
        tried = torch.cat([x[:, None], inner, points], dim=1)
        y = answers.repeat_interleave(tried.shape[1])
        judged = self._judge(tried.flatten(0, 1))
        lead = other_lead(judged.logits, y).view(len(x), -1)[:, : 1 + each]
        share = (lead.amax(dim=1) / ahead).clamp(-1.0, 1.0)
        share = torch.where(ahead > 0.0, share, 1.0)
        leads = torch.where(radius > 0.0, share, torch.nan).tolist()

        other = _other(judged, y).view(len(x), -1)
        far = distances(tried.flatten(0, 1), x.repeat_interleave(tried.shape[1], dim=0), self.norm)
        far = torch.where(other, far.view_as(other), torch.inf)
        nearest: list[Counterexample | None] = [None] * len(x)
        rows = torch.nonzero(torch.isfinite(far).any(dim=1)).squeeze(1)
        if not len(rows):  # the usual case
            return leads, nearest
        place = far[rows].argmin(dim=1)
        ends = tried[rows, place]
        found, best, lead, error = self._drawn_back(x[rows], ends, answers[rows])
        lengths = distances(found, x[rows], self.norm)
        for i, row in enumerate(rows.tolist()):
            if int(best[i]) != UNPROVEN:
                verdict = ProvenVerdict(int(best[i]), float(lead[i]), float(error[i]))
                nearest[row] = Counterexample(found[i], float(lengths[i]), verdict)
        return leads, nearest

    def _drawn_back(
        self, x: Tensor, ends: Tensor, answers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move points of another class towards their images for as long as it is another one.

        Returns:
            The points; and of each the class that is proven there, -1 if none, the bound of its
            lead over the certified one, and the bound of the state's error.
        """
        low, high = torch.zeros(len(x)).double(), torch.ones(len(x)).double()
        rows = torch.arange(len(x))
        found, best = ends, torch.full_like(answers, UNPROVEN)
        lead, error = torch.zeros(len(x)).double(), torch.zeros(len(x)).double()
        for attempt in range(1 + HALVINGS):  # the ends themselves first
            middle = 0.5 * (low + high) if attempt else high
            tried = torch.lerp(x.double(), ends.double(), column(middle)).to(ends.dtype)
            judged = self._judge(tried)
            other = _other(judged, answers)
            found = torch.where(column(other), tried, found)
            best = torch.where(other, judged.best, best)
            lead = torch.where(other, judged.gaps[rows, answers], lead)
            error = torch.where(other, judged.error, error)
            low, high = torch.where(other, low, middle), torch.where(other, middle, high)
        return found, best, lead, error

    def _judge(self, points: Tensor) -> Leads:
        return self.enclosure.solve(points, tol=TOL, depth=DEPTH)


def _other(judged: Leads, answers: Tensor) -> Tensor:
    """Whether another class than the certified one is proven, per row."""
    classes = judged.classes
    return (classes != answers) & (classes != UNPROVEN)
