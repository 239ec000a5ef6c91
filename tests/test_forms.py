"""Forms of a model: the same classifier, rows that keep to themselves, and what is declared."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import HalfLine

from deqcert import form_cache
from deqcert.bench.forms import FormBench, FormTiming, bench_forms
from deqcert.cli import main
from deqcert.errors import ConfigError
from deqcert.models import (
    FORMS,
    MDEQ,
    ContractiveConfig,
    ContractiveDEQ,
    ImplicitModel,
    MDEQConfig,
    fold,
    folding,
    form_names,
    in_form,
    load_model,
)
from deqcert.models.forms import Form
from deqcert.smoothing import Input, Predictor, SmoothingEngine
from deqcert.solvers import StopRule, bind, get_solver

ROWS = 16
CONFIG = MDEQConfig(
    channels=(4, 8),
    head_channels=(3, 5),
    final_channels=12,
    image_size=(8, 8),
    input_channels=1,
    mean=(0.3,),
    std=(0.4,),
    num_groups=2,
    expansion_factor=2,
    post_affine=False,
)

# The kernel of form direct takes channels by eight.
EIGHTS = dataclasses.replace(CONFIG, channels=(8, 16))

# Each kernel takes the compiler a second or more, and one resolution needs half as many.
LITTLE = dataclasses.replace(
    CONFIG, channels=(4,), head_channels=(3,), num_blocks=(), big_kernels=()
)


def trained(config: MDEQConfig = CONFIG, seed: int = 0) -> MDEQ:
    """A model whose normalisations hold statistics and scales as training leaves them."""
    torch.manual_seed(seed)
    model = MDEQ(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.uniform_(0.3, 3.0)
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.3)
    return model


class Dense(torch.nn.Module):
    """An equilibrium model of somebody else's, as a torch module."""

    input_shape = (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.w = torch.nn.Parameter(0.1 * torch.randn(16, 16))

    def inject(self, x):
        return x.flatten(1)

    def initial_state(self, injection):
        return torch.zeros_like(injection)

    def cell(self, z, injection):
        return torch.tanh(z @ self.w + injection)

    def readout(self, z):
        return z[:, :3]


@pytest.fixture(scope="module")
def formed():
    """A model in each form and the model itself; each is made once."""
    made: dict[str, tuple[ImplicitModel, MDEQ]] = {}

    def make(form: str) -> tuple[ImplicitModel, MDEQ]:
        if form == "compiled" and not (shutil.which("g++") or shutil.which("clang++")):
            pytest.skip("needs a C++ compiler, and there is none")
        if form not in made:
            model = trained({"compiled": LITTLE, "direct": EIGHTS}.get(form, CONFIG))
            made[form] = in_form(model, form, rows=ROWS), model
        return made[form]

    return make


def images(rows: int = ROWS, seed: int = 0, shape=(1, 8, 8)) -> torch.Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(seed))


def vote(model, x: torch.Tensor, evaluations: int = 5) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        injection = model.inject(x)
        z = model.initial_state(injection)
        for _ in range(evaluations):
            z = model.cell(z, injection)
        return {"injection": injection, "z": z, "logits": model.readout(z)}


def agree(found, wanted, tolerance: float) -> bool:
    return all(
        bool((found[key] - wanted[key]).abs().max() <= tolerance * wanted[key].abs().max())
        for key in wanted
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_classifier(formed, form) -> None:
    (model, eager), x = formed(form), images()
    before, wanted = x.clone(), vote(eager, x)
    found = vote(model, x)
    assert agree(found, wanted, 0.2 if FORMS.get(form).rounds else 1e-5)
    assert torch.equal(x, before)
    for key, tensor in found.items():
        assert tensor.shape == wanted[key].shape
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
    assert model.input_shape == (1, 8, 8)
    assert model.num_classes == 10
    again = vote(model, x)
    assert all(torch.equal(found[key], again[key]) for key in found)


@pytest.mark.parametrize("form", FORMS)
def test_functions_leave_their_arguments_alone(formed, form) -> None:
    (model, _), x = formed(form), images()
    with torch.no_grad():
        injection = model.inject(x)
        z = torch.randn_like(model.initial_state(injection))
        kept = z.clone(), injection.clone()
        model.cell(z, injection)
        model.readout(z)
    assert torch.equal(z, kept[0])
    assert torch.equal(injection, kept[1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tol", [0.0, 0.5])
def test_votes_of_a_form_do_not_depend_on_the_batch(formed, form, tol) -> None:
    predictor = Predictor(get_solver("anderson"), StopRule(tol=tol, max_nfe=8))
    x = images(1)[0].numpy()
    whole = None
    for batch in (1, 7, 64):
        engine = SmoothingEngine(formed(form)[0], sigma=0.5, seed=1, batch=batch, shape=ROWS)
        found = engine.votes(predictor, Input(x, 0), 1, 40)
        assert (found.predictions >= 0).any()
        whole = found if whole is None else whole
        np.testing.assert_array_equal(found.predictions, whole.predictions)
        np.testing.assert_array_equal(found.margins, whole.margins)


def any_config() -> st.SearchStrategy[MDEQConfig]:
    def build(draw) -> MDEQConfig:
        channels = draw(st.sampled_from([(4,), (4, 8), (8, 4, 4)]))
        # A head as wide as its bottleneck's end has no shortcut convolution.
        heads = tuple(draw(st.sampled_from([1, 3, c // 4])) for c in channels)
        return MDEQConfig(
            channels=channels,
            head_channels=heads,
            final_channels=draw(st.integers(1, 9)),
            image_size=(16, 8),
            input_channels=2,
            mean=(0.2, 0.5),
            std=(0.5, 0.3),
            num_groups=2,
            expansion_factor=draw(st.sampled_from([1, 2])),
            downsample_times=draw(st.integers(0, 1)),
            weight_norm=draw(st.booleans()),
            block_affine=draw(st.booleans()),
            post_affine=draw(st.booleans()),
        )

    return st.composite(build)()


@settings(max_examples=25)
@given(config=any_config(), seed=st.integers(0, 1000), last=st.booleans())
def test_folding_changes_rounding_only_and_the_cell_not_at_all(config, seed, last) -> None:
    model = trained(config, seed)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model, channels_last=last)
    x = images(3, seed, (2, 16, 8))
    assert agree(vote(folded, x), vote(model, x), 3e-5)
    with torch.no_grad():
        injection = model.inject(x)
        z = torch.randn_like(model.initial_state(injection))
        assert torch.equal(folded.cell(z, injection), model.cell(z, injection))
    left = [type(m) for m in folded.modules()]
    assert torch.nn.BatchNorm2d not in left
    assert folding.WeightNormConv2d not in left
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "mistake",
    [
        lambda convolution, norm: convolution,
        lambda convolution, norm: torch.nn.utils.fusion.fuse_conv_bn_eval(
            convolution, _without(norm, "running_mean")
        ),
        lambda convolution, norm: torch.nn.utils.fusion.fuse_conv_bn_eval(
            convolution, _without(norm, "bias")
        ),
    ],
    ids=["not folded", "without the mean", "without the shift"],
)
def test_the_comparison_itself_sees_a_wrong_fold(monkeypatch, mistake) -> None:
    monkeypatch.setattr(folding, "_fused", mistake)
    assert not agree(vote(fold(trained()), images()), vote(trained(), images()), 1e-3)


def _without(norm, name):
    norm = copy.deepcopy(norm)
    if getattr(norm, name) is not None:
        getattr(norm, name).data.zero_()
    return norm


def test_a_real_model_folded_finds_the_equilibrium_of_float64(golden_folder) -> None:
    model = load_model(golden_folder / "mdeq_small_noise25.pth.tar")
    folded = fold(model)
    with np.load(golden_folder / "mdeq_small_noise25.npz") as archive:
        golden = {name: torch.from_numpy(archive[name]) for name in archive.files}
    x = golden["x"].float() / 255 + golden["noise"]
    logits = {}
    for name, each in (("eager", model), ("folded", folded)):
        with torch.no_grad():
            injection = each.inject(x)
            start = each.initial_state(injection)
            stop = StopRule(tol=2e-6, max_nfe=100)
            solved = get_solver("anderson").solve(bind(each.cell, injection), start, stop)
            logits[name] = each.readout(solved.z)
    truth = golden["noisy_logits_equilibrium_float64"]
    scale = truth.abs().max()
    assert (logits["folded"] - truth).abs().max() < 1e-4 * scale
    assert (logits["folded"] - logits["eager"]).abs().max() < 1e-4 * scale
    with torch.no_grad():
        assert (folded.readout(solved.z) - model.readout(solved.z)).abs().max() < 1e-5


def test_which_forms_a_model_has() -> None:
    assert form_names(trained(EIGHTS)) == tuple(FORMS)
    assert form_names(trained()) == tuple(name for name in FORMS if name != "direct")
    assert form_names(Dense()) == ("eager", "compiled")
    assert form_names(HalfLine(0.7)) == ("eager",)
    # What it proves is about its own arithmetic.
    assert form_names(ContractiveDEQ(ContractiveConfig())) == ("eager",)
    model = trained()
    assert in_form(model, "eager", rows=3) is model
    with pytest.raises(ConfigError, match="no form 'fast'; there are eager, folded"):
        in_form(model, "fast", rows=3)
    with pytest.raises(ConfigError, match="HalfLine has no form 'folded'; it can be eager"):
        in_form(HalfLine(0.7), "folded", rows=3)


def test_every_form_says_what_it_is_in_a_line() -> None:
    for name in FORMS:
        summary = FORMS.get(name).summary
        assert 10 < len(summary) < 80
        assert not summary.endswith(".")


class Louder(Form):
    """A form from outside: twice the logits, so the same classes."""

    summary = "twice the logits"

    def applies(self, model: ImplicitModel) -> bool:
        return isinstance(model, torch.nn.Module)

    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        loud = copy.deepcopy(model)
        loud.readout = lambda z: 2 * model.readout(z)
        return loud


def test_a_form_from_outside_is_one_like_the_others(tmp_path: Path) -> None:
    FORMS.register("louder", Louder())
    try:
        assert "louder" in form_names(trained())
        assert "louder" not in form_names(HalfLine(0.7))
        x = images(4, shape=(1, 4, 4))
        loud, usual = vote(in_form(Dense(), "louder", rows=4), x), vote(Dense(), x)
        assert agree(loud, usual | {"logits": 2 * usual["logits"]}, 1e-6)
        given = "certify --model digits --sigma 0.25 --images :2 --n 40 --n0 10 --threads 1"
        for form in ("eager", "louder"):
            assert main([*given.split(), "--form", form, "--out", str(tmp_path / form)]) == 0
        tables = [
            [line.split("\t")[:5] for line in (tmp_path / form / "certificates.tsv").open()]
            for form in ("eager", "louder")
        ]
        assert tables[0] == tables[1]
    finally:
        FORMS.unregister("louder")


def test_another_number_of_rows_is_refused_not_compiled_anew(formed) -> None:
    model, _ = formed("compiled")
    with pytest.raises(ConfigError, match=f"compiled for {ROWS} rows .* give the engine shape=16"):
        model.inject(images(ROWS + 1))


def test_any_torch_module_can_be_compiled(formed) -> None:
    formed("compiled")  # skips where there is no compiler
    x = images(4, shape=(1, 4, 4))
    assert agree(vote(in_form(Dense(), "compiled", rows=4), x), vote(Dense(), x), 1e-5)


def test_a_machine_that_cannot_compile_is_one_sentence(monkeypatch) -> None:
    def broken(function, **options):
        def call(*tensors):
            raise RuntimeError("no working compiler\n  File 'somewhere', line 3")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError) as caught:
        in_form(trained(), "compiled", rows=4)
    assert "\n" not in str(caught.value)
    assert "no working compiler" in str(caught.value)
    assert "install a C++ compiler" in str(caught.value)
    # A bench measures the others, and says why.
    bench = bench_forms(trained(), images(4), ["compiled", "folded"], rounds=1)
    assert [t.form for t in bench.timings if not t.failure] == ["eager", "folded"]
    assert "no working compiler" in bench.text()
    assert json.loads(bench.json())["forms"][1]["vote"] is None


def test_a_bench_measures_every_part_and_refuses_nonsense() -> None:
    bench = bench_forms(trained(), images(4), ["folded", "bfloat16"], rounds=2, evaluations=3)
    for timing in bench.timings:
        parts = timing.inject + 3 * timing.cell + timing.readout
        assert timing.vote == pytest.approx(parts)
        assert min(timing.inject, timing.cell, timing.readout) > 0
    eager, folded, rough = bench.timings
    assert (eager.form, eager.speed, eager.difference) == ("eager", 1.0, 0.0)
    assert folded.difference < 1e-4 < rough.difference
    with pytest.raises(ConfigError, match="rounds and evaluations"):
        bench_forms(trained(), images(4), rounds=0)
    with pytest.raises(ConfigError, match="device 'tpu'"):
        bench_forms(trained(), images(4), device="tpu")
    with pytest.raises(ConfigError, match="no form 'folded'"):
        bench_forms(Dense(), images(4, shape=(1, 4, 4)), ["folded"])


@pytest.mark.parametrize(
    ("votes", "choice"),
    [
        ({"eager": 1.0, "folded": 0.7, "compiled": 0.6, "bfloat16": 0.1}, "compiled"),
        ({"eager": 1.0, "folded": 0.7, "compiled": 0.8, "bfloat16": 0.9}, "folded"),
        ({"eager": 1.0, "folded": 1.2, "compiled": 1.1, "bfloat16": 0.1}, "eager"),
        ({"eager": 1.0, "folded": 0.99}, "eager"),  # less than the noise
        ({"eager": 1.0, "folded": 0.7, "compiled": math.nan}, "folded"),
        ({"eager": 1.0}, "eager"),
    ],
)
def test_no_form_is_chosen_that_is_not_faster_in_float32(votes, choice) -> None:
    timings = tuple(
        FormTiming(form, 0, 0, 0, vote, 1.0 / vote, 0.0, 0.0, "it failed" if vote != vote else "")
        for form, vote in votes.items()
    )
    assert FormBench(timings, {}).choice == choice


# The command line


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("DEQCERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "forms.json"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    torch.save(trained().state_dict(), folder / "model.pth")
    (folder / "model.yaml").write_text(CONFIG.to_yaml())
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", x=x, y=np.arange(3))
    return folder


def certify(files: Path, out: Path, *more: str) -> list[str]:
    fixed = f"certify --model {files}/model.pth --data npz:{files}/images.npz --sigma 0.25 --quiet"
    fixed += f" --n0 10 --n 40 --batch 20 --tol 0 --depth 3 --threads 1 --out {out} --images 0:2"
    return [*fixed.split(), *more]


def key_of(rows: int = 20) -> str:
    return form_cache.describe(dataclasses.asdict(CONFIG), rows, 1, "cpu")


def recorded(out: Path) -> str:
    form = json.loads((out / "manifest.json").read_text())["parameters"]["form"]
    assert json.loads((out / "summary.json").read_text())["form"] == form
    return str(form)


def test_the_form_is_declared_and_a_run_keeps_it(files, tmp_path, cache, capsys) -> None:
    out = tmp_path / "run"
    assert main(certify(files, out)) == 0
    assert recorded(out) == "folded"  # nothing was measured
    assert form_cache.remember(key_of(), "eager")
    assert main(certify(files, out)) == 0  # measured since: the run goes on as it began
    assert recorded(out) == "folded"
    assert main(certify(files, tmp_path / "other")) == 0
    assert recorded(tmp_path / "other") == "eager"
    capsys.readouterr()
    assert main(certify(files, out, "--form", "bfloat16")) == 2
    assert 'form was "folded" and is now "bfloat16"' in capsys.readouterr().err
    assert main(certify(files, tmp_path / "rough", "--form", "bfloat16")) == 0
    assert recorded(tmp_path / "rough") == "bfloat16"


def test_a_choice_is_for_what_it_was_measured_on(cache, monkeypatch) -> None:
    config = dataclasses.asdict(CONFIG)
    keys = {
        key_of(),
        key_of(21),
        form_cache.describe(config, 20, 2, "cpu"),
        form_cache.describe(config, 20, 1, "cuda"),
        form_cache.describe({**config, "num_classes": 9}, 20, 1, "cpu"),
    }
    monkeypatch.setattr(form_cache, "machine", lambda: {"cpu": "another"})
    keys.add(key_of())
    monkeypatch.setattr(form_cache, "versions", lambda: {"torch": "9.0"})
    keys.add(key_of())
    assert len(keys) == 7
    assert form_cache.remember("a", "folded")
    assert form_cache.remember("b", "eager")
    assert (form_cache.recall("a"), form_cache.recall("b"), form_cache.recall("c")) == (
        "folded",
        "eager",
        None,
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"format": 99, "choices": {}}',
        b'{"format": 1}',
        b'{"format": 1, "choices": [1]}',
        b'{"format": 1, "choices": {"KEY": 7}}',
        b'{"format": 1, "choices": {"KEY": "a form that is gone"}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_cache_never_fails_a_run(files, tmp_path, cache, content) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content.replace(b"KEY", key_of().encode()))
    assert main(certify(files, tmp_path / "run", "--images", "0", "--n", "20")) == 0
    assert recorded(tmp_path / "run") == "folded"
    assert form_cache.remember(key_of(), "eager")
    assert form_cache.recall(key_of()) == "eager"


def test_bench_forms_keeps_the_choice_and_lives_without_a_cache(
    files, tmp_path, cache, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("deqcert.bench.forms.form_names", lambda model: ("eager", "folded"))
    given = f"bench forms --model {files}/model.pth --batch 20 --threads 1 --rounds 2"
    assert main([*given.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["form"] for each in found["forms"]] == ["eager", "folded"]
    assert form_cache.recall(key_of()) == found["choice"]
    assert main(given.split()) == 0
    said = capsys.readouterr()
    assert "faster x" in said.out
    assert f"kept in {cache}" in said.err
    shutil.rmtree(cache.parent)
    cache.parent.write_text("a file where the folder should be")
    assert main(given.split()) == 0
    assert "the cache cannot be written" in capsys.readouterr().err
    assert main(certify(files, tmp_path / "run", "--images", "0", "--n", "20")) == 0


def test_bench_solvers_prints_its_table(capsys) -> None:
    given = "bench solvers --sizes 32 --batches 2 --window 3 --rounds 1 --threads 1"
    assert main([*given.split(), "--json"]) == 0
    said = capsys.readouterr()
    assert {t["size"] for t in json.loads(said.out)["timings"]} == {32}
    assert "picard, B 2, D 32" in said.err
    assert main([*given.split(), "--quiet"]) == 0
    said = capsys.readouterr()
    assert "torchdeq" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("predict --form best", "form is 'best', but it must be one of auto, eager, folded"),
        ("bench forms --batch 0", "batch is 0"),
        ("bench forms --rounds 0", "rounds is 0"),
        ("bench forms --model /nowhere.pth", "cannot read checkpoint"),
        ("bench forms --device tpu", "device 'tpu' cannot be used"),
        ("bench forms --sizes 3", "there is no option --sizes"),
        ("bench solvers --sizes many", "sizes is 'many'"),
        ("bench solvers --batches 0", "batches is '0'"),
        ("bench solvers --rounds 0", "rounds is 0"),
        ("bench speed", "unexpected extra argument"),
    ],
)
def test_mistakes_are_one_sentence(capsys, cache, command, says) -> None:
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said


def test_help_names_every_form_and_every_bench(capsys) -> None:
    assert main(["certify", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(form in text for form in (*FORMS, "auto"))
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert "bench forms" in text
    assert "bench solvers" in text
    assert "bench cell" in text
