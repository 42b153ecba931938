"""The extension raises on a wrong call and never crashes, writes all that it is asked for, and addresses in 64 bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hifigan_fast.backends import cpu
from hifigan_fast.geometry import Ensemble, Layer, Run, Stack, run_table

lib, reason = cpu.extension()
pytestmark = pytest.mark.skipif(lib is None, reason=str(reason))

LAYERS = {"stem": Layer(1, 8, 5, 3, 2), "conv": Layer(4, 6, 5, 2, 2, 2), "head": Layer(8, 1, 3, 1, 1)}
DTYPES = [torch.float32, torch.bfloat16]
ENTRIES = ["forward", "input_grad", "stem_input_grad", "weight_grad"]


def conv(layer):
    return lib.Conv(
        layer.in_channels, layer.out_channels, layer.taps, layer.stride, layer.padding, layer.groups, layer.slope
    )


def maps(dtype):
    return getattr(lib.Maps, str(dtype).removeprefix("torch."))


def span(tensor):
    return None if tensor is None else (tensor.data_ptr(), tensor.numel())


def runs_of(layer, *sizes, role="conv"):
    """Runs one behind the other, each of (set, samples, period, in_rows)."""
    runs, ins, outs = [], 0, 0
    for weights, samples, period, in_rows in sizes:
        rows = -(-in_rows // period) if role == "stem" else in_rows
        runs.append(Run(weights, samples, period, in_rows, layer.out_rows(rows), ins, outs, ins, outs))
        ins += samples * in_rows * (1 if role == "stem" else period)
        outs += samples * period * runs[-1].out_rows
    return runs


class Call:
    """A right call of each entry point, on buffers of exactly the size that it needs; results are full of NaN."""

    def __init__(self, role="conv", layer=None, sizes=((0, 2, 3, 20),), sets=1, dtype=torch.float32):
        self.role, self.layer, self.dtype = role, layer or LAYERS[role], dtype
        layer, self.runs = self.layer, runs_of(self.layer, *sizes, role=role)
        ins = sum(r.samples * r.in_rows * (1 if role == "stem" else r.period) for r in self.runs) * layer.in_channels
        outs = sum(r.sequences * r.out_rows for r in self.runs) * layer.out_channels
        random = torch.Generator().manual_seed(0)
        shape = (layer.out_channels, layer.in_channels // layer.groups, layer.taps)
        self.x = torch.randn(ins, generator=random).to(torch.float32 if role == "stem" else dtype)
        self.grad_out = torch.randn(outs, generator=random).to(dtype)
        self.raw = [torch.randn(shape, generator=random) for _ in range(sets)]
        self.scale, self.norm = (
            [torch.rand(shape[:1], generator=random) + 0.5 for _ in range(sets)] for _ in ("scale", "norm")
        )
        self.bias = torch.randn(sets, layer.out_channels, generator=random)
        nan = float("nan")
        self.out, self.grad_in = torch.full((outs,), nan, dtype=dtype), torch.full((ins,), nan, dtype=dtype)
        self.grad_waves, self.grad_bias = torch.zeros(ins), torch.full((sets, layer.out_channels), nan)
        self.grad_raw = [torch.full(shape, nan) for _ in range(sets)]
        self.inner = [torch.full(shape[:1], nan) for _ in range(sets)]

    def arguments(self, entry):
        head = {"maps": maps(self.dtype), "role": getattr(lib.Role, self.role), "conv": conv(self.layer)}
        common = {**head, "runs": run_table(self.runs)}
        weights = [(span(raw), span(scale)) for raw, scale in zip(self.raw, self.scale)]
        x, grad_out, out, grad_in = span(self.x), span(self.grad_out), span(self.out), span(self.grad_in)
        every_other = [norm if i % 2 else None for i, norm in enumerate(self.norm)]
        grads = [
            (span(norm), span(raw), span(inner)) for norm, raw, inner in zip(every_other, self.grad_raw, self.inner)
        ]
        return {
            "forward": {**common, "x": x, "weights": weights, "bias": span(self.bias), "out": out, "threads": 1},
            "input_grad": {
                **head,
                "slope": 0.1,
                "runs": common["runs"],
                "grad_out": grad_out,
                "weights": weights,
                "saved": x,
                "map_grads": [None] * len(self.runs),
                "grad_in": grad_in,
                "threads": 1,
            },
            "stem_input_grad": {
                **{k: common[k] for k in ("maps", "conv", "runs")},
                "grad_out": grad_out,
                "weights": weights,
                "grad_waves": span(self.grad_waves),
                "threads": 1,
            },
            "weight_grad": {
                **common,
                "x": x,
                "grad_out": grad_out,
                "weights": weights,
                "grad_weights": grads,
                "grad_bias": span(self.grad_bias),
                "threads": 1,
            },
        }[entry]

    def run(self, entry, run=None, **changes):
        """Calls `entry` with changed fields of the first `run`, and changed arguments; returns what it wrote."""
        arguments = self.arguments(entry)
        assert changes.keys() <= arguments.keys()
        if run:
            arguments["runs"] = run_table([replace(self.runs[0], **run), *self.runs[1:]])
        getattr(lib, entry)(*{**arguments, **changes}.values())
        return {
            "forward": [self.out],
            "input_grad": [self.grad_in],
            "stem_input_grad": [self.grad_waves],
            "weight_grad": [*self.grad_raw, *self.inner, self.grad_bias],
        }[entry]


RIGHT = [
    (role, entry)
    for role in LAYERS
    for entry in ENTRIES
    if entry in ("forward", "weight_grad") or (entry == "stem_input_grad") == (role == "stem")
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("role, entry", RIGHT)
def test_the_right_call_works(role, entry, dtype):
    for result in Call(role, dtype=dtype).run(entry):
        assert result.isfinite().all() and result.abs().sum() > 0


# Address 8 is never read: the size is refused first. The right call has 480 floats (120 rows of 4 channels) on the
# input's side, 360 (60 rows of 6) on the output's, and filters of 60.
RAW, SCALE = (8, 60), (8, 6)
WRONG = {
    "x too small": ("forward", {"x": (8, 479)}, "x: holds 479 elements, the call needs 480"),
    "x null": ("forward", {"x": (0, 480)}, "x: null pointer"),
    "x misaligned": ("forward", {"x": (3, 480)}, "x: misaligned"),
    "x negative": ("forward", {"x": (8, -1)}, "x: holds -1"),
    "out too small": ("forward", {"out": (8, 359)}, "out: holds 359 elements, the call needs 360"),
    "out null": ("forward", {"out": (0, 360)}, "out: null pointer"),
    "bias too small": ("forward", {"bias": (8, 5)}, "bias: holds 5 elements, the call needs 6"),
    "bias of one of two sets": ("forward", {"weights": [(RAW, SCALE)] * 2, "bias": (8, 11)}, "bias: holds 11 elements"),
    "raw too small": ("forward", {"weights": [((8, 59), SCALE)]}, "raw: holds 59 elements, the call needs 60"),
    "raw null": ("forward", {"weights": [((0, 60), SCALE)]}, "raw: null pointer"),
    "raw misaligned": ("forward", {"weights": [((5, 60), SCALE)]}, "raw: misaligned"),
    "raw of a set without runs": ("forward", {"weights": [(RAW, SCALE), ((8, 1), SCALE)]}, "raw: holds 1"),
    "scale too small": ("forward", {"weights": [(RAW, (8, 5))]}, "scale: holds 5 elements, the call needs 6"),
    "scale null": ("forward", {"weights": [(RAW, (0, 6))]}, "scale: null pointer"),
    "no sets": ("forward", {"weights": []}, "sets: must be"),
    "no such set": ("forward", {"run": {"weights": 1}}, "no such set"),
    "negative samples": ("forward", {"run": {"samples": -1}}, "negative field"),
    "negative offset": ("forward", {"run": {"in_offset": -1}}, "negative field"),
    "wrong out_rows": ("forward", {"run": {"out_rows": 11}}, "out_rows does not follow"),
    "shorter than the taps": ("forward", {"run": {"in_rows": 0, "out_rows": 1}}, "empty sequence"),
    "no output": ("forward", {"run": {"out_rows": 0}}, "empty sequence"),
    "period 0": ("forward", {"run": {"period": 0}}, "empty sequence"),
    "offset past the end": ("forward", {"run": {"in_offset": 1}}, "x: holds 480 elements, the call needs 484"),
    "out_offset past the end": ("forward", {"run": {"out_offset": 1}}, "out: holds 360 elements, the call needs 366"),
    "more samples than there are": ("forward", {"run": {"samples": 3}}, "x: holds 480 elements, the call needs 720"),
    "huge": ("forward", {"run": {"samples": 2**40}}, "x: holds"),
    "overflowing samples": ("forward", {"run": {"samples": 2**62}}, "runs: too large"),
    "overflowing rows": ("forward", {"run": {"in_rows": 2**62, "out_rows": 2**61}}, "runs: too large"),
    "overflowing rows of no samples": (
        "forward",
        {"run": {"samples": 0, "in_rows": 2**62, "out_rows": 2**61}},
        "runs: too large",
    ),
    "overflowing period of no samples": ("forward", {"run": {"samples": 0, "period": 2**62}}, "runs: too large"),
    "overflowing offset": ("forward", {"run": {"out_offset": 2**62}}, "runs: too large"),
    "wrong table": ("forward", {"runs": np.zeros((1, 3), dtype=np.int64)}, "runs: expected an array"),
    "flat table": ("forward", {"runs": np.zeros(9, dtype=np.int64)}, "runs: expected an array"),
    "not a stem": ("forward", {"role": "stem"}, "stem: expected one input channel"),
    "not a head": ("forward", {"role": "head"}, "head: expected one output channel"),
    "grad_out too small": ("input_grad", {"grad_out": (8, 359)}, "grad_out: holds 359 elements, the call needs 360"),
    "saved too small": ("input_grad", {"saved": (8, 479)}, "saved: holds 479 elements, the call needs 480"),
    "grad_in too small": ("input_grad", {"grad_in": (8, 479)}, "grad_in: holds 479 elements, the call needs 480"),
    "grad_in null": ("input_grad", {"grad_in": (0, 480)}, "grad_in: null pointer"),
    "grad_in past the end": (
        "input_grad",
        {"run": {"grad_in_offset": 1}},
        "grad_in: holds 480 elements, the call needs 484",
    ),
    "raw too small for an input gradient": ("input_grad", {"weights": [((8, 59), SCALE)]}, "raw: holds 59"),
    "no map_grads": ("input_grad", {"map_grads": []}, "map_grads: expected one entry a run"),
    "a map_grad too small": (
        "input_grad",
        {"map_grads": [(8, 479)]},
        "map_grads: holds 479 elements, the call needs 480",
    ),
    "a map_grad null": ("input_grad", {"map_grads": [(0, 480)]}, "map_grads: null pointer"),
    "input gradient of no head": ("input_grad", {"role": "head"}, "head: expected one output channel"),
    "input gradient of no sets": ("input_grad", {"weights": []}, "sets: must be"),
    "weight gradient of no stem": ("weight_grad", {"role": "stem"}, "stem: expected one input channel"),
    "weight gradient of a small x": ("weight_grad", {"x": (8, 479)}, "x: holds 479 elements, the call needs 480"),
    "weight gradient of a small grad_out": ("weight_grad", {"grad_out": (8, 359)}, "grad_out: holds 359 elements"),
    "weight gradient of a small raw": ("weight_grad", {"weights": [((8, 59), SCALE)]}, "raw: holds 59 elements"),
    "grad_bias too small": ("weight_grad", {"grad_bias": (8, 5)}, "grad_bias: holds 5 elements, the call needs 6"),
    "no grad_weights": ("weight_grad", {"grad_weights": []}, "grad_weights: expected one entry a set"),
    "grad_weights of two sets": (
        "weight_grad",
        {"grad_weights": [(None, RAW, SCALE)] * 2},
        "grad_weights: expected one entry a set",
    ),
    "norms too small": (
        "weight_grad",
        {"grad_weights": [((8, 5), RAW, SCALE)]},
        "norms: holds 5 elements, the call needs 6",
    ),
    "grad_raw too small": (
        "weight_grad",
        {"grad_weights": [(None, (8, 59), SCALE)]},
        "grad_raw: holds 59 elements, the call needs 60",
    ),
    "grad_raw null": ("weight_grad", {"grad_weights": [(None, (0, 60), SCALE)]}, "grad_raw: null pointer"),
    "inner too small": (
        "weight_grad",
        {"grad_weights": [(None, RAW, (8, 5))]},
        "inner: holds 5 elements, the call needs 6",
    ),
    "inner misaligned": ("weight_grad", {"grad_weights": [(None, RAW, (2, 6))]}, "inner: misaligned"),
}


@pytest.mark.parametrize("entry, changes, message", WRONG.values(), ids=WRONG)
def test_a_wrong_call_raises(entry, changes, message):
    call = Call()
    changes = dict(changes)
    if "role" in changes:
        changes["role"] = getattr(lib.Role, changes["role"])
    with pytest.raises(ValueError, match=message):
        call.run(entry, **changes)
    results = [call.out, call.grad_in, call.grad_bias, *call.grad_raw, *call.inner]
    assert all(result.isnan().all() for result in results), "refused, but something was written"


@pytest.mark.parametrize("arguments", [(0, 1, 1, 1, 0, 1), (4, 6, 5, 1, -1, 1), (4, 6, 5, 1, 2, 4), (4, 6, 0, 1, 2, 2)])
def test_a_wrong_convolution_raises(arguments):
    with pytest.raises(ValueError, match="Conv: "):
        lib.Conv(*arguments, 0.1)


@pytest.mark.parametrize(
    "arguments",
    [(2**31, 2**31, 4, 1, 1, 1), (1, 1, 2**62, 1, 2**62, 1), (1, 1, 1, 2, 2**63 - 1, 1), (1, 1, 1, 2**62, 0, 1)],
    ids=["channels", "taps and padding", "padding", "stride"],
)
def test_an_overflowing_convolution_raises(arguments):
    with pytest.raises(ValueError, match="Conv: too large"):
        lib.Conv(*arguments, 0.1)


def test_more_sets_than_can_be_raise():
    with pytest.raises(ValueError, match="sets: too large"):
        Call().run("forward", conv=lib.Conv(4, 6, 5, 10**12, 2, 2, 0.1), weights=[(RAW, SCALE)] * 50)


def test_wrong_types_raise():
    for changes in ({"x": "nothing"}, {"conv": None}, {"runs": None}, {"weights": None}, {"weights": [(8, 60)]}):
        with pytest.raises(TypeError):
            Call().run("forward", **changes)
    for changes in ({"map_grads": None}, {"slope": "steep"}):
        with pytest.raises(TypeError):
            Call().run("input_grad", **changes)
    with pytest.raises(TypeError):
        Call().run("weight_grad", grad_weights=[(None, None, None)])


def test_the_stem_has_an_input_gradient_of_its_own():
    """`input_grad` reads a waveform as rows of sequences, of which it has fewer."""
    with pytest.raises(ValueError, match="stem"):
        Call("stem", sizes=((0, 1, 1, 20),)).run("input_grad")
    with pytest.raises(ValueError, match="stem: expected one input channel"):
        Call("conv").run("stem_input_grad")


@pytest.mark.parametrize(
    "changes, message", [({"grad_waves": (8, 39)}, "grad_waves: holds 39 elements, the call needs 40")]
)
def test_a_wrong_stem_input_gradient_raises(changes, message):
    with pytest.raises(ValueError, match=message):
        Call("stem").run("stem_input_grad", **changes)


def test_a_pad_as_long_as_the_waveform_raises():
    """Reflect padding mirrors what is there: 4 samples at period 9 would need 5 more."""
    for entry in ("forward", "stem_input_grad", "weight_grad"):
        with pytest.raises(ValueError, match="the reflect pad is not shorter"):
            Call("stem", sizes=((0, 1, 9, 4),)).run(entry)


def test_two_runs_of_one_waveform_must_agree_on_its_size():
    call = Call("stem", sizes=((0, 1, 1, 20), (0, 2, 1, 10)))
    with pytest.raises(ValueError, match="one waveform with two sizes"):
        call.run("stem_input_grad", runs=run_table([replace(run, in_offset=0) for run in call.runs]))


def test_other_entry_points_check_their_sizes():
    t = torch.zeros(4)
    with pytest.raises(ValueError, match="raw: holds 4 elements, the call needs 6"):
        lib.row_norms(span(t), 3, 2, span(t), 1)
    with pytest.raises(ValueError, match="norms: holds 1 elements, the call needs 2"):
        lib.row_norms(span(t), 2, 2, (8, 1), 1)
    with pytest.raises(ValueError, match="row_norms: negative"):
        lib.row_norms(span(t), -1, 2, span(t), 1)
    with pytest.raises(ValueError, match="row_norms: too large"):
        lib.row_norms(span(t), 2**32, 2**32, span(t), 1)
    with pytest.raises(ValueError, match="maps: the two of a pair differ in size"):
        lib.feature_l1(lib.Maps.float32, [(span(t), (t.data_ptr(), 3))], span(t), 1)
    with pytest.raises(ValueError, match="maps: null pointer"):
        lib.feature_l1(lib.Maps.float32, [(span(t), (0, 4))], span(t), 1)
    with pytest.raises(ValueError, match="means: holds 4 elements, the call needs 5"):
        lib.feature_l1(lib.Maps.float32, [(span(t), span(t))] * 5, span(t), 1)
    with pytest.raises(ValueError, match="one gradient of each kind"):
        lib.feature_l1_grad(lib.Maps.float32, [(span(t), span(t))], span(t), [], [None], 1)
    with pytest.raises(ValueError, match="grads_real: holds 3 elements, the call needs 4"):
        lib.feature_l1_grad(lib.Maps.float32, [(span(t), span(t))], span(t), [(8, 3)], [None], 1)
    with pytest.raises(ValueError, match="prefer_huge_pages: negative size"):
        lib.prefer_huge_pages(8, -1)
    with pytest.raises(ValueError, match="threads: must be from 1 to 1024"):
        lib.peak(0)
    with pytest.raises(ValueError, match="instruction set vax: not on this machine"):
        lib.use_instruction_set("vax")


def test_feature_maps_of_negative_size_raise():
    t = torch.zeros(1)
    with pytest.raises(ValueError, match="maps: "):
        lib.feature_l1(lib.Maps.float32, [((8, -1), (8, -1))], span(t), 1)
    with pytest.raises(ValueError, match="maps: "):
        lib.feature_l1_grad(lib.Maps.float32, [((8, -1), (8, -1))], span(t), [None], [None], 1)


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
    span, weights = (8, 8), [((8, 1024 * 1024 * 5), (8, 1024))]
    with pytest.raises(ValueError, match=f"x: holds 8 elements, the call needs {16_000_000 * 1024}"):
        lib.forward(lib.Maps.float32, lib.Role.conv, conv(layers[1]), tables[1], span, weights, (8, 1024), span, 1)


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
