"""The floor of a cell: operations that are counted right, and rates and multiples that follow."""

from __future__ import annotations

import json
import math

import pytest
import torch

from deqcert.bench import cell
from deqcert.bench.cell import bench_cell, count_flops
from deqcert.cli import main
from deqcert.errors import ConfigError
from deqcert.models import load_model


class Known(torch.nn.Module):
    """One 3x3 convolution from 4 to 4 channels on 6x6 maps, and one linear readout."""

    input_shape = (4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.linear = torch.nn.Linear(144, 5)

    def inject(self, x):
        return x

    def initial_state(self, injection):
        return torch.zeros_like(injection).flatten(1)

    def cell(self, z, injection):
        return torch.tanh(self.convolution(z.view(-1, 4, 6, 6)) + injection).flatten(1)

    def readout(self, z):
        return self.linear(z)


class Elementwise(Known):
    """A model whose cell multiplies no matrices."""

    def cell(self, z, injection):
        return torch.tanh(z * 0.5 + injection.flatten(1))


def images(rows: int, shape=(1, 8, 8)) -> torch.Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0))


def test_the_operations_of_a_known_convolution_are_two_for_each_multiplication() -> None:
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    x = torch.rand(5, 3, 10, 12)
    assert count_flops(lambda: layer(x)) == 2 * 5 * (8 * 10 * 12) * (3 * 3 * 3)
    strided = torch.nn.Conv2d(3, 8, 5, stride=2, groups=1)
    assert count_flops(lambda: strided(x)) == 2 * 5 * (8 * 3 * 4) * (3 * 5 * 5)
    assert count_flops(lambda: torch.rand(7, 4) @ torch.rand(4, 9)) == 2 * 7 * 4 * 9


def test_a_row_of_a_known_model_is_counted_whatever_the_batch() -> None:
    for rows in (1, 6):
        first, second = bench_cell(Known(), images(rows, (4, 6, 6)), ["eager"], rounds=1).timings
        assert (first.part, second.part) == ("cell", "readout")
        assert first.flops == pytest.approx(2e-6 * 4 * 36 * 4 * 9)
        assert second.flops == pytest.approx(2e-6 * 144 * 5)


def test_floor_and_multiples_follow_from_counts_and_rates() -> None:
    bench = bench_cell(load_model("digits"), images(10), ["folded", "bfloat16"], rounds=3)
    assert [t.form for t in bench.timings] == ["eager"] * 2 + ["folded"] * 2 + ["bfloat16"] * 2
    units = bench.facts["bfloat16_units"]
    assert set(bench.rates) == ({"float32", "bfloat16"} if units else {"float32"})
    for t in bench.timings:
        assert t.dtype == ("bfloat16" if t.form == "bfloat16" else "float32")
        rate = max(bench.rates[t.dtype if units else "float32"].values())
        assert t.floor == pytest.approx(t.flops / rate)  # MFLOP over GFLOP/s is milliseconds
        assert t.multiple == pytest.approx(t.ms / t.floor)
        assert t.products_multiple == pytest.approx(t.products_ms / t.floor)
    assert len({t.flops for t in bench.timings if t.part == "cell"}) == 1


@pytest.mark.parametrize(("units", "against"), [(False, "float32"), (True, "bfloat16")])
def test_bfloat16_is_held_against_its_own_rate_only_where_there_are_units(
    monkeypatch, units, against
) -> None:
    monkeypatch.setattr(cell, "has_bfloat16_units", lambda: units)
    monkeypatch.setattr(cell, "SIDES", (32,))
    bench = bench_cell(load_model("digits"), images(2), ["bfloat16"], rounds=1)
    last = bench.timings[-1]
    assert last.floor == pytest.approx(last.flops / max(bench.rates[against].values()))
    assert ("bfloat16" in bench.rates) == units


def test_products_alone_are_those_of_the_part_and_nothing_else() -> None:
    model, x = Known(), images(3, (4, 6, 6))
    with torch.no_grad():
        products = cell.Products()
        with products:
            model.cell(model.initial_state(x), x)
        assert [func.overloadpacket.__name__ for func, _, _ in products.calls] == ["convolution"]
        assert count_flops(products.again) == 3 * 2 * 4 * 36 * 4 * 9


def test_a_cell_without_products_has_no_floor() -> None:
    bench = bench_cell(Elementwise(), images(2, (4, 6, 6)), ["eager"], rounds=1)
    first = bench.timings[0]
    assert first.flops == 0.0
    assert math.isnan(first.multiple)
    assert math.isnan(first.products_ms)
    assert json.loads(bench.json())["timings"][0]["multiple"] is None
    assert "nan" in bench.text()


def test_a_form_that_cannot_be_made_is_named_and_costs_nothing_else(monkeypatch) -> None:
    from deqcert.bench import forms

    real = forms.in_form

    def broken(model, form, **given):
        if form == "compiled":
            raise ConfigError("no working compiler.")
        return real(model, form, **given)

    monkeypatch.setattr(forms, "in_form", broken)
    bench = bench_cell(load_model("digits"), images(2), ["compiled", "folded"], rounds=1)
    assert bench.text().count("compiled: no working compiler.") == 1
    assert [t.form for t in bench.timings if not t.failure] == [
        "eager",
        "eager",
        "folded",
        "folded",
    ]


def test_bench_cell_prints_a_table_and_json(capsys) -> None:
    given = "bench cell --model digits --batch 4 --rounds 1 --threads 1 --form folded"
    assert main(given.split()) == 0
    said = capsys.readouterr()
    assert "x floor" in said.out
    assert "GFLOP/s" in said.out
    assert main([*given.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 4
    assert found["time"] == "processor"
    assert min(found["gflops"]["float32"].values()) > 0.0
    assert [t["part"] for t in found["timings"]] == ["cell", "readout"] * 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--form best", "form 'best'"),
        ("--batch 0", "batch is 0"),
        ("--rounds 0", "rounds is 0"),
        ("--model nowhere.pth", "cannot read checkpoint"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, options, says) -> None:
    assert main(["bench", "cell", *options.split()]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
