"""The extension writes all that it is asked for, and addresses in 64 bits."""

import numpy as np
import pytest
import torch

from hifigan_fast.geometry import Ensemble, Layer, Stack, run_table

from .extension_calls import DTYPES, LAYERS, RIGHT, Call, conv, lib, reason, span, spans

pytestmark = pytest.mark.skipif(lib is None, reason=str(reason))

ODD = [
    ("conv", LAYERS["conv"]),
    ("conv", Layer(6, 9, 2, 5, 1, 3)),
    ("conv", Layer(8, 4, 41, 4, 20, 4)),
    ("conv", Layer(70, 70, 1, 1, 0)),
    ("conv", Layer(33, 17, 5, 3, 2)),
    ("conv", Layer(12, 12, 3, 1, 1, 12)),
    ("stem", LAYERS["stem"]),
    ("stem", Layer(1, 37, 15, 3, 7)),
    ("head", LAYERS["head"]),
    ("head", Layer(70, 1, 4, 3, 2)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("role, layer", ODD)
def test_weight_gradients_write_every_element(role, layer, threads, dtype):
    """Of sets 0 and 3, which rows meet; set 1 has no run and set 2 a run without samples: zeros, not what was there."""
    call = Call(role, layer, ((0, 2, 3, 50), (2, 0, 3, 50), (3, 1, 1, 44), (0, 1, 2, 41)), 4, dtype)
    results = call.run("weight_grad", threads=threads)
    assert all(result.isfinite().all() for result in results)
    for per_set in (call.grad_raw, call.inner, call.grad_bias):
        assert all(per_set[i].any() for i in (0, 3)) and not any(per_set[i].any() for i in (1, 2))


@pytest.mark.parametrize("role", LAYERS)
def test_without_runs_weight_gradients_are_zero(role):
    assert not any(result.any() for result in Call(role, sizes=()).run("weight_grad"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("role, layer", ODD)
def test_other_passes_write_every_element(role, layer, dtype):
    call = Call(role, layer, ((0, 2, 3, 50), (1, 1, 1, 44), (1, 0, 3, 50)), 2, dtype)
    for entry in ("forward", "stem_input_grad" if role == "stem" else "input_grad"):
        assert all(result.isfinite().all() for result in call.run(entry))


OFFSETS = [
    ("conv", "forward", "in_offset", "x", 480, 4),
    ("conv", "forward", "out_offset", "out", 360, 6),
    ("conv", "input_grad", "grad_out_offset", "grad_out", 360, 6),
    ("conv", "input_grad", "in_offset", "saved", 480, 4),
    ("conv", "input_grad", "grad_in_offset", "grad_in", 480, 4),
    ("conv", "weight_grad", "in_offset", "x", 480, 4),
    ("conv", "weight_grad", "grad_out_offset", "grad_out", 360, 6),
    ("stem", "stem_input_grad", "in_offset", "grad_waves", 40, 1),
    ("stem", "stem_input_grad", "grad_out_offset", "grad_out", 144, 8),
    ("head", "forward", "out_offset", "out", 120, 1),
]


@pytest.mark.parametrize("offset", [2**31, 2**32, 2**45 + 3])
@pytest.mark.parametrize("role, entry, field, name, size, channels", OFFSETS)
def test_a_far_offset_is_refused_by_size(role, entry, field, name, size, channels, offset):
    needed = size + offset * channels
    with pytest.raises(ValueError, match=f"^{name}: holds {size} elements, the call needs {needed}$"):
        Call(role).run(entry, {field: offset})


def test_the_geometry_counts_in_64_bits():
    """A batch of more than 2³¹ elements, of which nothing is allocated."""
    layers = (Layer(1, 1024, 5, 1, 2), Layer(1024, 1024, 5, 1, 2), Layer(1024, 1, 3, 1, 1, slope=1.0))
    ensemble = Ensemble((Stack(layers, 2, True),), (0,), (4_000_000,), 2, 2, ((0, 0),))
    tables = [run_table(ensemble.runs(depth, tuple(ensemble.members))) for depth in range(3)]
    assert all(table.dtype == np.int64 for table in tables)
    assert tables[0][1].tolist() == [0, 2, 2, 4_000_000, 2_000_000, 8_000_000, 8_000_000, 8_000_000, 8_000_000]
    assert tables[1][1].tolist() == [0, 2, 2, 2_000_000, 2_000_000, *[8_000_000] * 4]
    assert 8_000_000 * 1024 > 2**31
    some, weights = spans((8, 8)), spans([((8, 1024 * 1024 * 5), (8, 1024))])
    with pytest.raises(ValueError, match=f"x: holds 8 elements, the call needs {16_000_000 * 1024}"):
        lib.forward(
            lib.Dtype.float32, lib.Role.conv, conv(layers[1]), tables[1], some, weights, spans((8, 1024)), some, 1
        )


FAR = 2**32  # elements: what 32 bits cut off would land at the front of the buffer, signed or not


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """More than 2³² floats, all zero, in a file of holes: only pages that are touched take room."""
    path = tmp_path_factory.mktemp("sparse") / "floats"
    try:
        floats = np.memmap(path, dtype=np.float32, mode="w+", shape=FAR + 2**16)
    except OSError as error:
        pytest.skip(f"no file of 16 GiB of holes: {error}")
    yield torch.from_numpy(floats)
    path.unlink()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", lib.instruction_sets() if lib else [])
@pytest.mark.parametrize("role, entry", RIGHT)
def test_kernels_address_in_64_bits(role, entry, isa, dtype, sparse):
    """The same call on rows beyond the 2³²th element of a buffer: the same bits, there and nowhere else."""
    call = Call(role, Layer(32, 64, 5, 2, 2, 2) if role == "conv" else None, dtype=dtype)
    places = {  # of a run: what lies there, and where
        "forward": {"in_offset": ("x", call.x), "out_offset": ("out", call.out)},
        "input_grad": {
            "in_offset": ("saved", call.x),
            "grad_in_offset": ("grad_in", call.grad_in),
            "grad_out_offset": ("grad_out", call.grad_out),
        },
        "stem_input_grad": {
            "in_offset": ("grad_waves", call.grad_waves),
            "grad_out_offset": ("grad_out", call.grad_out),
        },
        "weight_grad": {"in_offset": ("x", call.x), "grad_out_offset": ("grad_out", call.grad_out)},
    }[entry]
    ins, outs = call.layer.in_channels, call.layer.out_channels
    run, far, results = {}, {}, {}
    sparse[: 2**16] = 0
    for i, (field, (name, buffer)) in enumerate(places.items()):
        at, elements = FAR + i * 2**13, sparse.view(buffer.dtype)
        run[field] = at // (ins if "in_" in field else outs)
        far[name] = span(elements)
        results[name] = elements[at : at + len(buffer)].copy_(buffer)
    before = lib.instruction_set()
    lib.use_instruction_set(isa)
    try:
        near = [result.clone() for result in call.run(entry)]
        there = [result.clone() for result in call.run(entry, run, **far)]
    finally:
        lib.use_instruction_set(before)
    written = {"forward": "out", "input_grad": "grad_in", "stem_input_grad": "grad_waves"}.get(entry)
    found = there if written is None else [results[written]]
    assert all(torch.equal(a, b) for a, b in zip(found, near, strict=True))
    assert not sparse[: 2**16].any()
