"""Proofs without noise: nothing is found inside a radius, and planted mistakes are caught."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deqcert.certifiers import CERTIFIERS, get_certifier
from deqcert.errors import CheckpointError, ConfigError, DataError
from deqcert.models import (
    ContractiveConfig,
    ContractiveDEQ,
    LipschitzBoundedConfig,
    MonotoneConfig,
    MonotoneConvConfig,
    MonotoneMultiTierConfig,
    architecture,
    load_model,
)
from deqcert.models.spectral import spectral_norm_bound
from deqcert.proofs import (
    LOCAL,
    RULES,
    Margins,
    is_semidefinite,
    margins,
    margins_of,
    multiplier_bound,
    pairwise_bounds,
    verified_bound,
)
from deqcert.smoothing import Input

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN = SHARED / "golden" / "mondeq"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no ../shared/golden/mondeq")
SHAPE = (1, 4, 4)


def network(kind: str, seed: int, scale: float = 2.0):
    """A random small model whose logits differ visibly between inputs."""
    torch.manual_seed(seed)
    sizes = {"width": 10, "num_classes": 4, "image_size": SHAPE[1:], "mean": (0.4,), "std": (0.3,)}
    config = {
        "contractive": lambda: ContractiveConfig(**sizes, factor=0.8),
        "monotone": lambda: MonotoneConfig(**sizes, monotone=0.5),
        "lipschitz-bounded": lambda: LipschitzBoundedConfig(**sizes, lipschitz=2.0),
        "monotone-multi-tier": lambda: MonotoneMultiTierConfig(
            width=1, num_classes=4, image_size=(6, 6), mean=(0.4,), std=(0.3,), monotone=0.5
        ),
        "monotone-conv": lambda: MonotoneConvConfig(
            width=3, num_classes=4, image_size=(4, 4), mean=(0.4,), std=(0.3,), monotone=0.5
        ),
    }[kind]()
    model = config.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if kind.startswith("monotone"):
                parameter.mul_(scale)
    return model


KINDS = ("contractive", "lipschitz-bounded", "monotone", "monotone-conv")


def equilibrium(form, bias: Tensor, x: Tensor) -> Tensor:
    """The equilibria for inputs, shape (B, D), by the classical splitting, to its last bits."""
    identity = torch.eye(len(form.state), dtype=torch.float64)
    operator = identity - form.state
    step = 1.0 / math.sqrt(form.monotone * torch.linalg.matrix_norm(operator, 2).item())
    inverse = torch.linalg.inv(identity + step * operator)
    b, u = x.flatten(1).double() @ form.input.T + bias, 0.0
    z = torch.zeros(len(x), len(identity), dtype=torch.float64)
    for _ in range(1000):
        half = 2.0 * z - u
        u = 2.0 * (half + step * b) @ inverse.T - half
        following = torch.relu(u)
        done = (following - z).norm() < 1e-14
        z = following
        if done:
            break
    return z


def parts(model) -> tuple:
    """W, U, C and so on; the bias that enters; and that of the logits."""
    form = model.relu_form()
    if isinstance(model, ContractiveDEQ):
        weight, bias = model.encoder.weight.double(), model.encoder.bias.double()
        readout = model.classifier
    else:
        (weight, bias), readout = model.input_matrix(), model.Wout
    std, mean = model.normalize.std.double(), model.normalize.mean.double()
    shift = (mean / std).expand(*model.input_shape).reshape(-1)
    return form, (bias - weight @ shift).detach(), readout.bias.double().detach()


def slopes(form, z: Tensor) -> Tensor:
    """Jacobians of the logits by the input, shape (B, K, C*H*W)."""
    active = torch.diag_embed((z > 0).double())
    identity = torch.eye(z.shape[1], dtype=torch.float64)
    inner = torch.linalg.solve(identity - active @ form.state, active @ form.input)
    return form.readout @ inner


# --- positive semidefinite ---------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    exponent=st.integers(-12, 12),
    margin=st.floats(-1e-3, 1e-3),
)
def test_what_is_proven_semidefinite_has_no_eigenvalue_below_the_error(n, seed, exponent, margin):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    matrix = 10.0**exponent * (root @ root.T)
    matrix = (matrix + matrix.T) / 2
    error = max(0.0, margin) * matrix.diagonal().max().item()
    if is_semidefinite(matrix + margin * torch.eye(n, dtype=torch.float64), error):
        exact = mpmath.matrix((matrix + margin * torch.eye(n, dtype=torch.float64)).tolist())
        assert min(mpmath.eigsy(exact, eigvals_only=True)) >= error


def test_semidefinite_is_proven_where_there_is_room_and_never_where_there_is_none():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert is_semidefinite(matrix, 0.999999)
    assert not is_semidefinite(matrix, 1.0)
    assert not is_semidefinite(-matrix, 0.0)
    assert not is_semidefinite(matrix * math.nan, 0.0)
    assert not is_semidefinite(matrix, math.inf)


# --- constants ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_no_two_inputs_change_a_logit_difference_faster_than_its_constant(kind, rule):
    for seed in range(3):
        model = network(kind, seed)
        form, bias, _ = parts(model)
        constants = pairwise_bounds(form, rule)
        x = torch.rand(200, *model.input_shape, dtype=torch.float64)
        jacobians = slopes(form, equilibrium(form, bias, x))
        steepest = (jacobians[:, :, None] - jacobians[:, None]).norm(dim=3).amax(dim=0)
        assert (steepest <= constants * (1 + 1e-12)).all()
        assert torch.equal(constants, constants.T)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_are_in_the_order_of_their_constants(kind):
    form = network(kind, 5).relu_form()
    smallest, middle, largest = (pairwise_bounds(form, rule) for rule in RULES)
    off = ~torch.eye(len(smallest), dtype=torch.bool)
    assert (smallest[off] <= middle[off] * (1 + 1e-6)).all()
    assert (middle[off] <= largest[off] * (1 + 1e-6)).all()
    assert smallest[off].mean() < 0.95 * middle[off].mean()


def test_a_linear_network_has_the_constant_of_its_matrix():
    """W = 0 and positive states: logits are C (U x + u), whose constants are ||(c_i - c_j) U||."""
    torch.manual_seed(0)
    form = network("contractive", 0).relu_form()
    form = dataclasses.replace(form, state=torch.zeros_like(form.state), monotone=1.0)
    row = form.readout[0] - form.readout[1]
    bound, _ = multiplier_bound(form, row)
    assert bound >= (row @ form.input).norm().item()
    assert bound <= 1.0001 * spectral_norm_bound(form.input) * row.norm().item()


def test_equal_rows_of_the_readout_never_limit_a_radius():
    model = network("monotone", 1)
    with torch.no_grad():
        model.Wout.weight[1] = model.Wout.weight[0]
    assert pairwise_bounds(model.relu_form(), "multiplier")[0, 1] == 0.0


def test_a_bound_that_is_too_small_is_never_verified():
    form = network("monotone", 2).relu_form()
    row = form.readout[0] - form.readout[1]
    bound, multiplier = multiplier_bound(form, row)
    assert verified_bound(form, row, multiplier, bound)
    assert not verified_bound(form, row, multiplier, 0.999 * bound)
    assert not verified_bound(form, row, -multiplier, bound)
    assert not verified_bound(form, row, multiplier, math.nan)
    # Matrices that are known less well need a larger constant.
    vague = dataclasses.replace(form, state_error=1e-3 * form.state.norm().item())
    assert not verified_bound(vague, row, multiplier, bound)


def circular(kernel, size: tuple[int, int]) -> Any:
    """A convolution with circular padding as a matrix, in many digits, tap by tap."""
    channels, (height, width) = len(kernel), size
    matrix = mpmath.matrix(channels * height * width, channels * height * width)
    for out in range(channels):
        for into in range(channels):
            for y, x, dy, dx in itertools.product(range(height), range(width), range(3), range(3)):
                row = (out * height + y) * width + x
                at = (into * height + (y + dy - 1) % height) * width + (x + dx - 1) % width
                matrix[row, at] += mpmath.mpf(kernel[out][into][dy][dx])
    return matrix


def exact_state(model) -> Any:
    """W in many digits, from the stored weights."""
    linear, m = model.mon.linear_module, mpmath.mpf(model.monotone)
    if isinstance(model.config, LipschitzBoundedConfig):
        u, v, b, c = (
            mpmath.matrix(k.weight.double().tolist())
            for k in (linear.U, linear.V, linear.B, model.Wout)
        )
        std, g = mpmath.mpf(model.normalize.std.item()), mpmath.mpf(model.config.lipschitz)
        inner = (c.T * c + u * u.T / std**2) / (2 * g) + v.T * v
        return (1 - m) * mpmath.eye(b.rows) - inner + b - b.T
    if isinstance(model.config, MonotoneConfig):
        a, b = (mpmath.matrix(k.weight.double().tolist()) for k in (linear.A, linear.B))
        return (1 - m) * mpmath.eye(b.rows) - a.T * a + b - b.T
    size = model.config.state_size
    a, b = (circular(k.weight.double().tolist(), size) for k in (linear.A, linear.B))
    square_a, square_b = (
        mpmath.fsum(mpmath.mpf(v) ** 2 for v in k.weight.double().flatten().tolist())
        for k in (linear.A, linear.B)
    )
    a *= mpmath.sqrt(mpmath.mpf(linear.g.item()) / square_a)
    b *= mpmath.mpf(linear.h.item()) / mpmath.sqrt(square_b)
    whole = (1 - m) * mpmath.eye(b.rows) - a.T * a + b - b.T
    (height, width), channels = size, model.config.width
    inside = [
        (c * height + y) * width + x
        for c in range(channels)
        for y in range(1, height - 1)
        for x in range(1, width - 1)
    ]
    return mpmath.matrix([[whole[i, j] for j in inside] for i in inside])


@pytest.mark.parametrize("kind", KINDS[1:])
@settings(deadline=None, max_examples=2)
@given(seed=st.integers(0, 10**6))
def test_the_computed_matrices_are_as_near_to_the_exact_ones_as_is_said(kind, seed):
    model = network(kind, seed)
    form = model.relu_form()
    exact = exact_state(model)
    off = mpmath.mnorm(exact - mpmath.matrix(form.state.tolist()), "f")
    assert off <= form.state_error
    splitting = model._proven()
    step = mpmath.mpf(splitting.step)
    inverse = (mpmath.eye(len(form.state)) + step * (mpmath.eye(len(form.state)) - exact)) ** -1
    computed = (mpmath.matrix(splitting.reflection.tolist()) + mpmath.eye(len(form.state))) / 2
    assert mpmath.mnorm(inverse - computed, "f") <= splitting.inverse_error
    assert splitting.factor >= np.linalg.norm(splitting.reflection.numpy(), 2)


def strided(conv, size: tuple[int, int], stride: int = 1):
    """A convolution with circular padding as a matrix, tap by tap, in extended precision."""
    kernel, (height, width) = conv.weight.detach().numpy().astype(np.longdouble), size
    places = list(itertools.product(range(height // stride), range(width // stride)))
    matrix = np.zeros((len(kernel), len(places), kernel.shape[1], height, width), np.longdouble)
    for (at, (y, x)), dy, dx in itertools.product(enumerate(places), range(3), range(3)):
        place = (stride * y + dy - 1) % height, (stride * x + dx - 1) % width
        matrix[:, at, :, *place] = kernel[:, :, dy, dx]
    return matrix.reshape(len(kernel) * len(places), -1)


def test_the_matrix_of_two_tiers_is_that_of_its_kernels():
    model = network("monotone-multi-tier", 1)
    linear, (first, second) = model.mon.linear_module, (s[1:] for s in model.config.shapes)
    tiers = list(zip(linear.A, linear.B, (first, second), strict=True))
    a, b = (scipy.linalg.block_diag(*(strided(t[k], t[2]) for t in tiers)) for k in (0, 1))
    top = math.prod(model.config.shapes[0])
    a[top:, :top] = strided(linear.D[0], first, stride=2)
    assert np.abs(a[top:, :top]).max() > 0.0
    exact = (1 - np.longdouble(model.monotone)) * np.eye(len(b)) - a.T @ a + b - b.T
    form = model.relu_form()
    assert np.sqrt(np.square(exact - form.state.numpy()).sum()) <= form.state_error
    assert form.state_error < 1e-11


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), g=st.floats(0.1, 20.0), scale=st.floats(0.1, 10.0))
def test_a_lipschitz_bounded_network_never_exceeds_its_constant(seed, g, scale):
    torch.manual_seed(seed)
    sizes = {"width": 10, "num_classes": 4, "image_size": SHAPE[1:], "mean": (0.4,), "std": (0.3,)}
    model = LipschitzBoundedConfig(**sizes, lipschitz=g).build().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    form, bias, _ = parts(model)
    x = torch.rand(50, *SHAPE, dtype=torch.float64)
    jacobians = slopes(form, equilibrium(form, bias, x))
    assert torch.linalg.matrix_norm(jacobians, 2).max() <= g * (1 + 1e-9)
    constants = pairwise_bounds(form, "multiplier")
    assert constants.max() <= math.sqrt(2.0) * g * (1 + 1e-6)


# --- radii -------------------------------------------------------------------------------------


def found_inside(model, rule: str, points: int, *, seed: int) -> int:
    """Look for another class inside the radii of a rule; how often one is found."""
    return refuted(model, margins_of(model, rule), points, seed=seed)


def refuted(model, proven: Margins, points: int, *, seed: int) -> int:
    """Look for another class inside proven radii, by gradients and at random; how often one is."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(points, *model.input_shape, generator=generator, dtype=torch.float64)
    form, bias, shift = parts(model)
    made = proven.each(x, tol=1e-10, depth=500)
    radius = torch.tensor([found for found, _ in proven.radii(made)], dtype=torch.float64)
    best = torch.tensor([lead.best for lead in made])
    certified = radius > 0
    x, radius, best = x[certified].flatten(1), radius[certified], best[certified]
    rows = torch.arange(len(x))

    def leads(at: Tensor) -> Tensor:
        logits = equilibrium(form, bias, at) @ form.readout.T + shift
        gaps = logits[rows, best][:, None] - logits
        gaps[rows, best] = math.inf
        return gaps

    wrong = torch.zeros(len(x), dtype=torch.bool)
    at = x.clone()
    for attempt in range(6):
        if attempt < 4:  # downhill on the smallest lead
            rival = leads(at).argmin(dim=1)
            jacobian = slopes(form, equilibrium(form, bias, at))
            direction = jacobian[rows, rival] - jacobian[rows, best]
        else:
            direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        norm = direction.norm(dim=1, keepdim=True).clamp_min(1e-300)
        at = x + radius[:, None] * direction / norm
        wrong |= leads(at).amin(dim=1) < 0
    return int(wrong.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_inside_two_thousand_proven_radii(kind):
    for seed, rule in enumerate(("multiplier", "multiplier", "classical")):
        assert found_inside(network(kind, seed), rule, 700, seed=seed) == 0


@pytest.mark.parametrize("points", [100, pytest.param(2000, marks=pytest.mark.long)])
def test_nothing_is_found_inside_the_radii_of_a_network_of_two_tiers(points):
    assert found_inside(network("monotone-multi-tier", 0), "classical", points, seed=0) == 0


def test_proven_radii_are_tight_enough_that_twice_of_them_is_refuted(monkeypatch):
    honest = Margins.radii
    monkeypatch.setattr(
        Margins, "radii", lambda self, leads: [(2 * r, rival) for r, rival in honest(self, leads)]
    )
    assert found_inside(network("monotone", 0), "multiplier", 300, seed=0) > 0


def drops_a_pair(self, leads):
    return [
        max((self._reach(lead, j), j) for j in range(len(lead.gaps)) if j != lead.best)
        for lead in leads
    ]


def test_dropping_the_pairs_but_one_is_caught(monkeypatch):
    monkeypatch.setattr(Margins, "radii", drops_a_pair)
    assert found_inside(network("monotone", 0), "multiplier", 300, seed=0) > 0


def test_halving_the_constants_is_caught(monkeypatch):
    real = margins.bounds_matrix
    monkeypatch.setattr(margins, "bounds_matrix", lambda classes, found: real(classes, found) / 2)
    monkeypatch.setattr(margins, "_KNOWN", margins.Known())
    assert found_inside(network("monotone", 0), "multiplier", 300, seed=0) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_solve_that_stops_early_only_makes_radii_smaller(kind):
    model = network(kind, 3)
    exact, early = (get_certifier("lipschitz", tol=tol) for tol in (1e-12, 0.05))
    smaller = 0
    for index, x in enumerate(torch.rand(40, *model.input_shape)):
        best, less = (c.certify(model, Input(x, index)) for c in (exact, early))
        assert less.radius <= best.radius
        assert less.prediction in (None, best.prediction)
        smaller += less.radius < best.radius
    assert smaller > 30


def test_forgetting_the_error_of_the_solve_is_caught(monkeypatch):
    honest = margins.Enclosure.gaps

    def forgets(self, z, fz, injection, inexact=0.0):
        best, _, distance = honest(self, z, fz, injection, inexact)
        logits = self.model.readout(z)
        return best, logits.gather(1, best[:, None]) - logits, distance

    monkeypatch.setattr(margins.Enclosure, "gaps", forgets)
    with pytest.raises(AssertionError):
        test_a_solve_that_stops_early_only_makes_radii_smaller("monotone")


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_are_below_those_of_a_solve_in_forty_digits(kind):
    model = network(kind, 4)
    form, _, shift = parts(model)
    x = torch.rand(1, *model.input_shape)
    with mpmath.workdps(40):
        mean, std = (mpmath.mpf(v.item()) for v in (model.normalize.mean, model.normalize.std))
        if kind == "contractive":
            weight, offset = model.encoder.weight.double(), model.encoder.bias.double()
            w = mpmath.matrix(form.state.tolist())
        else:
            weight, offset = model.input_matrix()
            w = exact_state(model)
        u = mpmath.matrix(weight.tolist())
        operator = np.eye(len(form.state)) - form.state.numpy()
        step = mpmath.mpf(form.monotone / np.linalg.norm(operator, 2) ** 2)
        found = margins_of(model, "classical")
        for one in x:
            pixels = mpmath.matrix([(mpmath.mpf(p) - mean) / std for p in one.flatten().tolist()])
            bias = u * pixels + mpmath.matrix(offset.tolist())
            z = mpmath.matrix(len(form.state), 1)
            for _ in range(4000):
                moved = z + step * (bias - z + w * z)
                following = moved.apply(lambda v: v if v > 0 else mpmath.mpf(0))
                if mpmath.norm(following - z) < mpmath.mpf(10) ** -30:
                    break
                z = following
            logits = mpmath.matrix(form.readout.tolist()) * z + mpmath.matrix(shift.tolist())
            lead = found.at(one, tol=1e-10, depth=1000)
            for j in range(len(logits)):
                if j != lead.best:
                    gap = logits[lead.best] - logits[j]
                    assert lead.gaps[j].item() <= gap
                    assert gap - lead.gaps[j].item() < 1e-6


# --- models and files --------------------------------------------------------------------------


def test_the_splitting_finds_the_equilibrium_of_the_network():
    from deqcert.solvers import StopRule, bind, get_solver

    model = network("monotone", 6).double()
    form, bias, _ = parts(model)
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        injection = model.inject(x)
        for name in ("picard", "anderson", "broyden"):
            solved = get_solver(name).solve(
                bind(model.cell, injection),
                model.initial_state(injection),
                StopRule(tol=1e-12, max_nfe=500),
            )
            assert solved.converged.all()
            torch.testing.assert_close(solved.z.relu(), equilibrium(form, bias, x))


def test_gradients_reach_the_weights_of_a_monotone_network():
    model = network("monotone", 7).double()
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    model.cell(torch.randn(2, 10, dtype=torch.float64), model.inject(x)).sum().backward()
    for name in "UAB":
        assert getattr(model.mon.linear_module, name).weight.grad.abs().sum() > 0


def test_changed_weights_are_noticed_whatever_way_they_changed():
    model = network("monotone", 8)
    with torch.no_grad():
        before = model.cell(torch.ones(1, 10), torch.zeros(1, 10))
        model.mon.linear_module.A.weight.data.mul_(2.0)
        assert not torch.equal(before, model.cell(torch.ones(1, 10), torch.zeros(1, 10)))


def test_a_model_without_constants_is_refused_in_a_sentence():
    model = architecture("tiny").build().eval()
    with pytest.raises(ConfigError, match="constants can be proven, but MDEQ offers none"):
        get_certifier("lipschitz").check(model)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_network_that_is_not_monotone_is_refused(bad):
    with pytest.raises(ConfigError, match="must be above 0"):
        MonotoneConfig(monotone=bad)


def test_an_image_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="not finite"):
        get_certifier("lipschitz").certify(
            network("monotone", 0), Input(torch.full(SHAPE, math.nan), 0)
        )


def test_the_rules_are_those_that_the_certifier_offers():
    from deqcert.options import options_of

    assert tuple(options_of(CERTIFIERS.get("lipschitz"))["bound"].choices()) == (*RULES, LOCAL)


def saved(path: Path, model) -> Path:
    torch.save(model.state_dict(), path)
    return path


def published(tmp_path: Path, name: str) -> Path:
    config = MonotoneConfig(width=6, monotone=20.0, image_size=(28, 28), mean=(0.1,), std=(0.3,))
    return saved(tmp_path / name, config.build())


@pytest.mark.parametrize(
    "name", ["mon_h6_m20.0.pt", "deq_m=20.pt", "mnist_mon_h200_m20.pt", "x_m20.0_seed1.pt"]
)
def test_m_of_a_published_network_is_read_from_the_name_of_its_file(tmp_path, name):
    assert load_model(published(tmp_path, name)).config.monotone == 20.0


def test_a_published_network_without_m_is_refused_until_it_is_given(tmp_path):
    path = published(tmp_path, "mon_h40.pt")
    with pytest.raises(ConfigError, match=r"--model-config m=20"):
        load_model(path)
    model = load_model(path, "m=3.5")
    assert model.config.monotone == 3.5
    assert model.config.mean == (0.1307,)
    with pytest.raises(ConfigError):
        load_model(path, "m=-1")
    with pytest.raises(ConfigError):
        load_model(path, "g=1")


def test_a_convolutional_published_network_is_read_with_the_stride_that_its_readout_tells(tmp_path):
    config = MonotoneConvConfig(8, image_size=(28, 28), kernel=6, stride=3, monotone=20.0)
    path = saved(tmp_path / "conv_m20.0.pt", config.build())
    read = load_model(path).config
    assert (read.kernel, read.stride, read.width, read.monotone) == (6, 3, 8, 20.0)
    weights = torch.load(path, weights_only=True)
    weights["Wout.weight"] = torch.zeros(10, 77)
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match="no stride"):
        load_model(path)


def test_a_convolutional_network_with_a_negative_g_is_refused():
    model = network("monotone-conv", 0)
    with torch.no_grad():
        model.mon.linear_module.g.fill_(-0.1)
    with pytest.raises(CheckpointError, match=r"g is -0\.1"):
        get_certifier("lipschitz").check(model)


def test_a_matlab_file_is_read_in_float64_and_a_damaged_one_refused(tmp_path):
    from scipy.io import savemat

    torch.manual_seed(0)
    arrays = {name: torch.rand(6, 6).double().numpy() for name in "AB"}
    arrays |= {"U": torch.rand(6, 784).double().numpy(), "u": torch.rand(6, 1).double().numpy()}
    arrays |= {"C": torch.rand(10, 6).double().numpy(), "c": torch.rand(10, 1).double().numpy()}
    path = tmp_path / "deq_m=20.mat"
    savemat(path, arrays)
    model = load_model(path)
    assert model.Wout.weight.dtype == torch.float64
    assert np.array_equal(model.Wout.weight.detach().numpy(), arrays["C"])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged MATLAB file"):
        load_model(path)
    savemat(path, {"A": arrays["A"]})
    with pytest.raises(CheckpointError, match="without the matrices"):
        load_model(path)


# --- published weights -------------------------------------------------------------------------

PUBLISHED = {
    # section 17: ACR and certified accuracy at .1, .3, .5, 1 of all 10000 test images
    ("mon_h40_m20.0.pt", "published"): (0.196, 0.831, 0.132, 0.002, 0.0),
    ("mon_h40_m20.0.pt", "classical"): (0.409, 0.915, 0.716, 0.334, 0.004),
    ("mon_h40_m20.0.pt", "multiplier"): (0.585, 0.930, 0.829, 0.635, 0.065),
    ("deq_MNIST_SingleFcNet_m=20.mat", "published"): (0.189, 0.855, 0.087, 0.0, 0.0),
}


@needs_golden
@pytest.mark.parametrize(("file", "rule"), PUBLISHED)
def test_published_networks_have_the_radii_that_are_known(file, rule):
    from deqcert.data import load_dataset

    try:
        data = load_dataset(f"mnist:{SHARED / 'data' / 'mnist'}", "test")
    except DataError:
        pytest.skip("no ../shared/data/mnist")
    found = margins_of(load_model(GOLDEN / file), rule)
    labels = torch.from_numpy(data.labels())
    leads = found.each(torch.from_numpy(data.batch(range(len(data)))), tol=1e-10, depth=200)
    radii = torch.tensor([found.radius(lead)[0] for lead in leads], dtype=torch.float64)
    best = torch.tensor([lead.best for lead in leads])
    right = (best == labels).double()
    row = [(radii * right).mean()] + [((radii >= r) * right).mean() for r in (0.1, 0.3, 0.5, 1.0)]
    assert torch.stack(row).tolist() == pytest.approx(PUBLISHED[file, rule], abs=6e-4)
