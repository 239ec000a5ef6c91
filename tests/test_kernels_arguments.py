"""What the kernels refuse: the argument is named, by the package and by the extension itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_problems import (
    DTYPES,
    METHODS,
    RULE,
    Memory,
    Window,
    anderson_arguments,
    bits,
    memory_of,
    native,
    needs_native,
    normals,
)

from deqcert import kernels
from deqcert.errors import KernelError
from deqcert.kernels.step import STEPS


@pytest.mark.parametrize("name", ["z", "fz", "window_f", "window_g", "gram", "count", "out"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda t: t.half() if t.is_floating_point() else t.long(), id="dtype"),
        pytest.param(lambda t: torch.cat([t, t]), id="rows"),
        pytest.param(lambda t: t[..., :-1].contiguous() if t.dim() > 1 else t[:-1], id="size"),
        pytest.param(lambda t: t[None], id="dimensions"),
        pytest.param(lambda t: torch.stack([t, t], -1)[..., 0], id="layout"),
        pytest.param(lambda t: t.to("meta"), id="device"),
        pytest.param(lambda t: t.numpy(), id="type"),
    ],
)
def test_a_bad_tensor_is_named(path, name, spoil):
    arguments = anderson_arguments()
    arguments[name] = spoil(arguments[name])
    with pytest.raises(KernelError) as error:
        kernels.anderson_step(**arguments)
    named = str(error.value).partition(":")[0]
    # A wrong first argument that is well-formed in itself shows as a mismatch of the next.
    assert named == name or (name == "z" and named == "fz")
    if name in ("z", "fz"):
        with pytest.raises(KernelError, match=r"^f?z: "):
            kernels.residual_norms(arguments["z"], arguments["fz"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("damping", "ridge") for value in (-1.0, math.nan, math.inf)),
        ("damping", 0.0),
        *((name, value) for name in ("growth", "max_weight") for value in (0.5, -1.0, math.nan)),
    ],
)
def test_a_number_out_of_range_is_named(path, name, value):
    with pytest.raises(KernelError, match=f"^{name}: "):
        kernels.anderson_step(**{**anderson_arguments(), name: value})


def test_outputs_that_need_a_gradient_are_refused(path):
    arguments = anderson_arguments()
    arguments["out"].requires_grad_()
    with pytest.raises(KernelError, match=r"^out: .*gradient"):
        kernels.anderson_step(**arguments)


def test_inputs_that_need_a_gradient_are_used_without_it(path):
    arguments = anderson_arguments()
    arguments["z"].requires_grad_()
    kernels.anderson_step(**arguments)
    residual, _ = kernels.residual_norms(arguments["z"], arguments["fz"])
    assert not residual.requires_grad
    assert residual.tolist() == [8.0, 8.0]


SPOILED = {
    "half": lambda t: t.half() if t.is_floating_point() else t.long(),
    "another float": lambda t: t.float() if t.dtype == torch.float64 else t.double(),
    "rows": lambda t: torch.cat([t, t]),
    "no rows": lambda t: t[:0],
    "size": lambda t: t[..., :-1].contiguous() if t.dim() > 1 else t[:-1],
    "dimensions": lambda t: t[None],
    "layout": lambda t: torch.stack([t, t], -1)[..., 0],
    "device": lambda t: t.to("meta"),
    "array": lambda t: t.double().numpy(),
    "nothing": lambda t: None,
    "gradient": lambda t: t.clone().requires_grad_() if t.is_floating_point() else t.bool(),
}


@needs_native
@given(
    method=st.sampled_from(list(METHODS)),
    rows=st.integers(1, 4),
    size=st.sampled_from([1, 2, 17, 2049]),
    m=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    spoil=st.sampled_from(list(SPOILED)),
    native_path=st.booleans(),
    data=st.data(),
)
def test_any_spoiled_argument_of_a_step_is_named_or_harmless(
    method, rows, size, m, dtype, spoil, native_path, data
):
    memory = memory_of(method, rows, m, size, dtype, rule=RULE)
    arguments = {"z": torch.zeros(rows, size, dtype=dtype), "fz": torch.ones(rows, size).to(dtype)}
    arguments |= memory.arrays | {"out": memory.before}
    arguments["workspace"] = kernels.workspace(memory.name, arguments["z"], m)
    names = [*arguments, "progress", "best"]
    name = data.draw(st.sampled_from(names))
    watch = memory.watch
    if name in ("progress", "best"):
        watch = replace(watch, **{name: SPOILED[spoil](getattr(watch, name))})
    else:
        arguments[name] = SPOILED[spoil](arguments[name])
    function = getattr(kernels, memory.name + "_step")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEQCERT_KERNELS", "native" if native_path else "torch")
        named = None
        try:
            function(**arguments, watch=watch, **memory.options)
        except KernelError as error:
            named = str(error).partition(":")[0]
    if named is not None:
        assert named == name or (name == "z" and named in names)
        return
    # What is let through is a gradient that is ignored, a layout that is packed all the same,
    # nothing where nothing is needed, and a workspace that the reference does not look at.
    assert (
        (spoil == "gradient" and name in ("z", "fz"))
        or (spoil in ("layout", "size") and 1 in (rows, size, m))
        or (name == "workspace" and (spoil == "nothing" or not native_path))
    ), (name, spoil)


def test_an_empty_batch_is_no_work(path):
    window = Window.empty(0, 3, 8, torch.float32)
    window.step(torch.zeros(0, 8), torch.zeros(0, 8))
    residual, norm = kernels.residual_norms(torch.zeros(0, 8), torch.zeros(0, 8))
    assert residual.shape == norm.shape == (0,)
    assert normals(0, 4).shape == (0, 4)


def native_arguments(method, window=3):
    """What the package passes to the extension for a step of two rows, but tensors as they are."""
    rows, size = 2, 8
    memory = Memory.empty(method, rows, window, size, torch.float64, rule=RULE)
    z = torch.zeros(rows, size, dtype=torch.float64)
    arrays = {"z": z, "fz": z + 1, **memory.arrays, "out": memory.before}
    each = native.workspace(method, window, size, False)
    arrays["workspace"] = torch.empty(rows, each, dtype=torch.float64)
    arrays |= {"progress": memory.watch.progress, "best": memory.watch.best}
    constants = next(o for name, o in METHODS.items() if name.split()[0] == method)
    return arrays, dict(constants), memory.watch.rule


def test_every_step_is_among_the_methods_that_are_tested():
    assert {name.split()[0] for name in METHODS} == set(STEPS)


@needs_native
class TestTheExtensionItself:
    """It guards the memory that it is given, whoever calls it."""

    def test_a_senseless_count_stays_inside_the_window(self):
        arguments = anderson_arguments()
        arguments["count"][:] = torch.tensor([-1, 2**31 - 1], dtype=torch.int32)
        before = [arguments[name].clone() for name in ("window_f", "window_g")]
        kernels.anderson_step(**arguments)
        assert arguments["count"].tolist() == [0, -(2**31)]
        for now, then in zip((arguments["window_f"], arguments["window_g"]), before, strict=True):
            assert (bits(now) != bits(then)).any(dim=2).sum().item() == 2

    def test_read_only_arrays_can_be_read_but_not_written(self):
        z, residual, norm, workspace = np.ones((2, 3)), np.empty(2), np.empty(2), np.empty((2, 2))
        z.setflags(write=False)
        native.residual_norms(z, z, residual, norm, workspace, threads=1, stream=0)
        assert norm.tolist() == [3.0, 3.0]
        residual.setflags(write=False)
        with pytest.raises(ValueError, match=r"^residual: .*read-only"):
            native.residual_norms(z, z, residual, norm, workspace, threads=1, stream=0)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("z", np.ones(3)),
            ("z", np.ones((2, 3), dtype=np.int32)),
            ("z", "text"),
            ("fz", np.ones((2, 3), dtype=np.float32)),
            ("fz", np.ones((3, 2)).T),
            ("fz", np.ones((2, 4))),
            ("norm", np.ones(3)),
            ("norm", np.ones((2, 1))),
            ("norm", 42),
            ("workspace", np.ones(2)),
            ("workspace", np.ones((1, 2))),
            ("workspace", np.ones((2, 2), dtype=np.float32)),
            ("threads", 0),
        ],
    )
    def test_faults_are_named(self, name, value):
        good = {
            "z": np.ones((2, 3)),
            "fz": np.ones((2, 3)),
            "residual": np.ones(2),
            "norm": np.ones(2),
            "workspace": np.ones((2, 2)),
            "threads": 1,
            "stream": 0,
        }
        with pytest.raises(ValueError, match=f"^{name}: "):
            native.residual_norms(**{**good, name: value})

    @pytest.mark.parametrize("method", STEPS)
    def test_a_step_takes_its_arrays_and_constants_and_no_others(self, method):
        arrays, constants, rule = native_arguments(method)
        native.step(method, arrays, constants, rule, threads=1, stream=0)
        for named in (arrays, constants):
            for name in list(named):
                value = named.pop(name)
                with pytest.raises(ValueError, match=f"^{name}: is missing"):
                    native.step(method, arrays, constants, rule, threads=1, stream=0)
                named[name] = "text"
                with pytest.raises(ValueError, match=f"^{name}: expected"):
                    native.step(method, arrays, constants, rule, threads=1, stream=0)
                named[name] = value
            named["more"] = 1.0
            with pytest.raises(ValueError, match=r"^more: is not an argument"):
                native.step(method, arrays, constants, rule, threads=1, stream=0)
            del named["more"]
        with pytest.raises(ValueError, match=r"^method: "):
            native.step("newton", arrays, constants, rule, threads=1, stream=0)

    @pytest.mark.parametrize("method", STEPS)
    def test_a_spoiled_array_of_a_step_is_named(self, method):
        arrays, constants, rule = native_arguments(method)
        spoils = (
            lambda t: t.half() if t.is_floating_point() else t.long(),
            lambda t: torch.cat([t, t]),
            lambda t: t[None],
            lambda t: torch.stack([t, t], -1)[..., 0],
        )
        for name, value in arrays.items():
            for spoil in spoils:
                named = {**arrays, name: spoil(value)}
                with pytest.raises(ValueError, match=r"^\w+: ") as error:
                    native.step(method, named, constants, rule, threads=1, stream=0)
                first = str(error.value).partition(":")[0]
                assert first == name or (name == "z" and first == "fz")

    @pytest.mark.parametrize("method", STEPS)
    def test_the_longest_window_is_that_of_the_package(self, method):
        longest = STEPS[method].max_window
        if longest == 1:
            return
        arrays, constants, rule = native_arguments(method, window=longest)
        native.step(method, arrays, constants, rule, threads=1, stream=0)
        arrays, constants, rule = native_arguments(method, window=longest + 1)
        with pytest.raises(ValueError, match=f"expected a window of 1 to {longest}"):
            native.step(method, arrays, constants, rule, threads=1, stream=0)

    @pytest.mark.parametrize("method", STEPS)
    def test_a_short_workspace_is_refused(self, method):
        arrays, constants, rule = native_arguments(method)
        for short in (torch.empty(2, 1), torch.empty(1, 10_000), torch.empty(10_000)):
            arrays["workspace"] = short.double()
            with pytest.raises(ValueError, match=r"^workspace: "):
                native.step(method, arrays, constants, rule, threads=1, stream=0)

    def test_unknown_instruction_set_is_refused(self):
        with pytest.raises(ValueError, match="isas"):
            native.select_isa("mmx")
