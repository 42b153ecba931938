"""A GPU backend's launches compiled for a device that is not there: what each takes of it.

python -m benchmarks.ahead --target sm_90 --dtype bfloat16 --backend cuda

Must run without TRITON_INTERPRET, and needs no GPU: CPU tensors stand for the device's.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tabulate import tabulate

from hifigan_fast import dispatch
from hifigan_fast.backends.contract import wide
from hifigan_fast.backends.cuda import compiler
from hifigan_fast.backends.cuda import kernels as cuda
from hifigan_fast.backends.cuda.kernel import Kernel
from hifigan_fast.backends.gpu.devices import Absent, absent, standing_for
from hifigan_fast.backends.gpu.kernels import instead_of_launching
from hifigan_fast.backends.triton import ahead, configs
from hifigan_fast.geometry import Ensemble, Layer, Stack
from hifigan_fast.losses import feature_loss
from hifigan_fast.norms import Parameters, Spectral
from hifigan_fast.passes.autograd import run_ensemble, run_step
from hifigan_fast.passes.call import Call
from tests import ways

from . import report

TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")
RESERVED = 1024
CUDA_TARGETS = tuple(f"sm_{number}" for number in compiler.TARGETS)
DTYPES = ("float32", "tf32", "bfloat16", "float16")  # of the maps; tf32: float32 maps, multiplied so
# Instructions of matrix units by the assembly that shows them: NVIDIA's PTX, AMD's.
MATRIX_INSTRUCTIONS = ("tcgen05.mma", "wgmma.mma_async", "mma.sync", "v_mfma")
# Instructions that bring one element of a float: in NVIDIA's assembly, to registers or to shared memory.
SINGLE = (
    r"ld\.global(?:[.:\w]+)*(?<!\.v[248])\.b(?:8|16|32)\b"
    r"|cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (?:0x)?4\b"
)

# Every configuration of the table is met; of a scale discriminator's layers, each width of a group.
LAYERS = (
    Layer(1, 128, 15, 1, 7),
    Layer(128, 128, 41, 2, 20, 4),
    Layer(128, 256, 41, 2, 20, 16),
    Layer(256, 1024, 41, 4, 20, 16),
    Layer(1024, 1024, 5, 1, 2),
    Layer(1024, 1, 3, 1, 1, slope=1.0),
)


@dataclass
class Launch:
    """One compiled kernel of a call, as the device would run it.

    Attributes:
        layer_class: of a convolution's configuration; "-" for other kernels.
        shared, spills: bytes of a program, of a thread.
        matrix: the instruction of the matrix units that it has, if any.
        singles: how many of `SINGLE` it has: operands shall come by 16 bytes.
        flops: multiplications and additions of a convolution, without padding; 0 for other kernels.
        bytes: of all its tensors, each once.
        counts: what was asked to be measured of it.
    """

    kernel: str
    grid: tuple
    layer_class: str
    warps: int
    shared: int
    registers: int
    spills: int
    matrix: str | None
    singles: int
    flops: int
    bytes: int
    counts: object = None


def _nvidia_resources(cubin):
    """(registers, bytes spilled) by cuobjdump, which Triton brings along."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return tuple(int(re.search(rf"{what}:(\d+)", text.stdout)[1]) for what in ("REG", "STACK", "SHARED"))


def _resources(assembly):
    """(registers, bytes spilled) of a compiled kernel."""
    if "cubin" in assembly:
        return _nvidia_resources(assembly["cubin"])[:2]
    found = [re.search(rf"\.{what}:\s+(\d+)", assembly["amdgcn"]) for what in ("vgpr_count", "vgpr_spill_count")]
    return int(found[0][1]), 4 * int(found[1][1])


def _class_of(meta):
    """The layer class that a convolution's compile-time arguments belong to; "-" for the other kernels."""
    if "GROUPS" not in meta:
        return "-"
    role = "stem" if meta.get("STEM") else "head" if meta.get("HEAD") else "conv"
    return configs.layer_class(role, Layer(*(meta[k] for k in ("IN", "OUT", "TAPS", "STRIDE", "PADDING", "GROUPS"))))


def tensors(args):
    """All tensors among arguments and tuples of them, views of one another too."""
    for argument in args:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, tuple):
            yield from tensors(argument)


RESULT = {"forward": 3, "input_grad": 0, "weight_grad": 1}  # which argument has the layer's output rows


def _flops(kernel, args, meta):
    result = next((at for name, at in RESULT.items() if kernel.endswith(name)), None)
    if result is None or "GROUPS" not in meta:
        return 0
    return 2 * args[result].numel() * meta["TAPS"] * (meta["IN"] // meta["GROUPS"])


def dtype_of(name):
    """A name of DTYPES as the maps' dtype."""
    return torch.float32 if name == "tf32" else getattr(torch, name)


def _triton(kernel, grid, args, meta):
    """(assembly, warps, bytes of shared memory, registers, bytes spilled) of a launch."""
    made = ahead.compile_only(kernel, grid, args, meta)
    text = made.asm.get("ptx") or made.asm["amdgcn"]
    return text, made.metadata.num_warps, made.metadata.shared, *_resources(made.asm)


def _cuda(kernel, grid, args, meta):
    args, constants = cuda.arguments(kernel, args, meta)
    ptx, cubin = (cuda.compiled(kernel, args, constants, absent().capability, form) for form in ("ptx", "cubin"))
    registers, spills, shared = _nvidia_resources(cubin)
    if absent().capability >= (9, 0):  # what the system takes of a block is counted, but is in no block's limit
        shared = max(0, shared - RESERVED)
    return ptx.decode(), constants["THREADS"] // 32, shared + constants.get("SHARED", 0), registers, spills


@contextlib.contextmanager
def compiling(name, tf32=False, backend="triton", measure=lambda kernel, grid, args, meta: None):
    """Within the block, `backend` compiles for the device `name` and runs nothing: results are not written.

    Yields the list that the `Launch`es are appended to, each with what `measure` returns of it. Not to be nested, nor
    to be used where kernels shall run.
    """
    launches, device = [], Absent(name, tf32)
    pretending = {"triton": ahead.pretending, "cuda": standing_for}[backend]

    def compile_only(kernel, grid, args, meta):
        compiled = _cuda if isinstance(kernel, Kernel) else _triton  # a pass of Triton's has both
        text, warps, shared, registers, spills = compiled(kernel, grid, args, meta)
        matrix = next((i for i in MATRIX_INSTRUCTIONS if i in text), None)
        singles = len(re.findall(SINGLE, text))
        work = _flops(kernel.__name__, args, meta), sum(t.numel() * t.itemsize for t in tensors(args))
        place = kernel.__name__, grid, _class_of(meta), warps, shared, registers, spills
        launches.append(Launch(*place, matrix, singles, *work, measure(kernel, grid, args, meta)))

    with pretending(device), instead_of_launching(compile_only), dispatch.use_backend(backend):
        yield launches


def every_configuration(name, arithmetic, backend="triton"):
    """Steps of an ensemble that has a layer of each class, compiled -> `Launch`es.

    With its losses and without, for an input gradient adds what it is given, or makes it. Triton's kernels run all
    layers of Triton's backend, also those that its table leaves to others.
    """
    own_backend, parameters, states, dtype = dispatch.BACKENDS[backend], [], [], dtype_of(arithmetic)
    stacks = (Stack(LAYERS),) * 2
    own = wide(dtype)

    def ones(*shape):
        return torch.ones(shape, dtype=own, device="cpu")

    for _ in stacks:
        parameters.append([])
        for layer in LAYERS:
            raw = ones(layer.out_channels, layer.in_channels // layer.groups, layer.taps)
            parameters[-1].append(Parameters(raw.requires_grad_(), None, ones(layer.out_channels)))
        vectors = [(ones(len(p.raw)), ones(p.raw[0].numel())) for p in parameters[-1]]
        states.append([Spectral(u, v, ones()) for u, v in vectors])
    ensemble = Ensemble(stacks, (0, 0), (8192,), 2, 2, ((0, 0), (1, 1)))
    waves = [[torch.zeros(2, 1, 8192, dtype=own, device="cpu").requires_grad_()] for _ in range(2)]
    with ways.by("triton"), compiling(name, arithmetic == "tf32", backend) as launches:
        call = Call(own_backend, ensemble, dtype, states)
        for iterations, calls in ((0, 2), (1, 2), (1, 1), (2, 2)):
            matrices = [(p.raw.detach().flatten(1), state.u, state.v) for p, state in zip(parameters[0], states[0])]
            own_backend.power_iterations(matrices, 1e-12, iterations, calls)
        maps = run_ensemble(call, waves, parameters)
        loss = feature_loss(*maps) + sum(own[-1].float().sum() for side in maps for own in side)
        loss.backward()
        adversarial, _, features = run_step(call, "generator", waves, parameters)
        (adversarial + features).backward()
    return launches


def command(args):
    if args.dtype == "tf32" and args.target.startswith("gfx"):
        raise ValueError(f"--dtype: got tf32, which {args.target} does not have")
    targets = CUDA_TARGETS if args.backend == "cuda" else TARGETS
    if args.target not in targets:
        raise ValueError(f"--target: got {args.target}, {args.backend} has {', '.join(targets)}")
    launches = every_configuration(args.target, args.dtype, args.backend)
    rows = [{name: value for name, value in asdict(launch).items() if name != "counts"} for launch in launches]
    if args.out:
        report.write(args.out, {"target": args.target, "dtype": args.dtype, "launches": rows})
    else:
        print(tabulate([list(row.values()) for row in rows], headers=list(rows[0])))


def main(argv=None):
    parser = report.parser("ahead", "Compile a GPU backend's kernels for a device that is not there.", repeats=1)
    parser.add_argument("--target", choices=sorted({*TARGETS, *CUDA_TARGETS}), default="sm_90")
    parser.add_argument("--backend", choices=("triton", "cuda"), default="triton")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
