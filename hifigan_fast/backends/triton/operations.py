"""The contract's operations as launches: grids, tables and buffers."""

import functools
import itertools
from dataclasses import dataclass, replace

import torch
import triton

from ..contract import ALIGNED
from . import adversarial, ahead, configs, convolution, library, pooling, program, spectral, stem, tables, together
from . import feature_l1 as l1
from . import weights as kernels
from .launch import launch
from .pointers import from_aligned
from .program import empty, not_again

ROWS = {"ROWS": 4, "AT_ONCE": 32, "TAPS_AT_ONCE": 8}  # of weights a program; channels and taps of each at a time
ROWS_INTERPRETED = {"ROWS": 128, "AT_ONCE": 128, "TAPS_AT_ONCE": 8}
# Of W v rows a tile and columns at a time, of Wᵀ u rows at a time and columns a tile.
SPECTRAL = {"ROWS": 8, "BLOCK": 512, "HEIGHT": 64, "COLUMNS": 64, "num_warps": 8}
SPECTRAL_INTERPRETED = {"ROWS": 128, "BLOCK": 1024, "HEIGHT": 256, "COLUMNS": 1024}
SPECTRAL_PROGRAMS, SPECTRAL_REGISTERS = 2, 128  # of each multiprocessor, all of which must run at once; of a thread
STEM_BLOCK, STEM_CHANNELS = 128, 32  # places of a waveform, and channels, at a time
MAP_BLOCK, MAP_CHUNK = 1024, 16384  # elements of a pair of maps: at a time, and a program
SCORES_AT_ONCE = 4096  # by the one program that sums all logits
PROGRAMS = 1056  # of a weight gradient, where rows allow: eight for each multiprocessor of a large device


@functools.cache
def capability(device):
    """What `configs.generation_of` takes."""
    if device.type == "cpu":
        return ahead.absent() and ahead.absent().capability
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName
    return torch.cuda.get_device_capability(device)


def tf32(device):
    """Whether float32 is multiplied in TF32: where cuDNN's convolutions would be asked to, and the device has it."""
    if device.type != "cuda" or torch.version.hip:
        return bool(ahead.absent() and ahead.absent().tf32)
    return ahead.asked_for_tf32()


def _arithmetic(like):
    return "half" if like.itemsize == 2 else "tf32" if tf32(like.device) else "float32"


def _config(direction, role, layer, like):
    generation = configs.generation_of(capability(like.device))
    found = configs.config(generation, direction, _arithmetic(like), configs.layer_class(role, layer))
    # No block is wider than its group, but for rows of a product that cannot be turned.
    channels = (layer.in_channels if direction == "input_grad" else layer.out_channels) // layer.groups
    widest = max(16, triton.next_power_of_2(channels))
    if direction != "weight_grad":
        return replace(found, BN=min(found.BN, widest))
    return replace(found, BM=min(found.BM, widest)) if convolution.TURNED_FROM.value <= found.BN else found


def _precision(like):
    """`tl.dot`'s for float32 operands; it takes no notice of it for others."""
    return "tf32" if _arithmetic(like) == "tf32" else "ieee"


def _geometry(layer):
    return {
        "IN": layer.in_channels,
        "OUT": layer.out_channels,
        "GROUPS": layer.groups,
        "TAPS": layer.taps,
        "STRIDE": layer.stride,
        "PADDING": layer.padding,
    }


def _rows(device):
    return ROWS_INTERPRETED if capability(device) is None else ROWS


def multiprocessors(device):
    if device.type == "cuda":
        return _multiprocessors(device)
    return ahead.absent().multiprocessors if ahead.absent() else 1


@functools.cache
def _multiprocessors(device):
    return torch.cuda.get_device_properties(device).multi_processor_count


def again(programs, key, inputs, run):
    """`program.again`, by all that operations go by beside their arguments."""
    device = next(t.device for t in inputs if t is not None)
    state = launch, configs.config, configs.state(), tf32(device), device
    return program.again(programs, (*state, *key), inputs, run)


def power_iterations(matrices, eps, iterations, calls):
    """As the contract says, in one launch."""
    weights, us, vs = zip(*matrices)
    like = weights[0]
    blocks = SPECTRAL_INTERPRETED if capability(like.device) is None else SPECTRAL
    jobs, by_row, by_column, outs, sizes = tables.spectral_jobs(
        tuple((len(u), len(v)) for u, v in zip(us, vs)), blocks["ROWS"], blocks["COLUMNS"], like.device
    )
    apart = calls if iterations else 1
    s, t = (torch.empty(apart, size, dtype=torch.float32, device=like.device) for size in (outs, sizes))
    u, v = (torch.empty(apart, size, dtype=like.dtype, device=like.device) for size in (outs, sizes))
    sigmas = torch.empty(apart, len(jobs), dtype=torch.float32, device=like.device)
    launch(
        like.device,
        spectral.iterate,
        (SPECTRAL_PROGRAMS * multiprocessors(like.device),),
        weights,
        us,
        vs,
        s,
        t if iterations else None,
        u,
        v,
        sigmas,
        jobs,
        by_column,
        by_row,
        together.counters(like.device, 1),
        eps,
        len(jobs),
        outs,
        sizes,
        len(by_column),
        len(by_row),
        apart,
        iterations,
        first_stage=0,
        stages=2 * apart * iterations + 1 if iterations else 2,
        launch_cooperative_grid=True,
        **({"maxnreg": SPECTRAL_REGISTERS} if isinstance(capability(like.device), tuple) else {}),  # NVIDIA's
        **blocks,
    )
    if not iterations:
        return u.new_empty(1, 0), v.new_empty(1, 0), sigmas
    for moved in (*us, *vs):  # written behind autograd's back
        torch.autograd.graph.increment_version(moved)
    return u, v, sigmas


def _alike(tensors):
    """Tensors of one dtype: kernels pick one of them by number, as a pointer of one type."""
    tensors = tuple(tensors)
    return tensors if len({t.dtype for t in tensors}) == 1 else tuple(t.float() for t in tensors)


def _kind(weight_set):
    if weight_set.magnitude is not None:
        return kernels.WEIGHT.value
    return (kernels.PLAIN if weight_set.sigma is None else kernels.SPECTRAL).value


def prepare(layers, sets, dtype):
    """`WeightSet`s [depth][set] -> (scaling, packed), in one launch."""
    like = sets[0][0].raw
    kinds, blocks = tuple(tuple(_kind(s) for s in own) for own in sets), _rows(like.device)
    jobs, elements, rows = tables.pack_jobs(tuple(layers), kinds, blocks["ROWS"], like.device)
    flat = [s for own in sets for s in own]
    packed = empty((elements,), dtype, like.device)
    scaling = empty((3, rows), torch.float32, like.device)
    biases, scales, norms = scaling.unbind()
    launch(
        like.device,
        kernels.pack,
        (len(jobs.programs),),
        _alike([s.raw for s in flat]),
        _alike([s.raw if s.magnitude is None else s.magnitude for s in flat]),
        _alike([s.raw if s.sigma is None else s.sigma for s in flat]),
        _alike([s.bias for s in flat]),
        packed,
        scales,
        norms,
        biases,
        jobs.programs,
        jobs.table,
        PRECISION=_precision(packed),
        **blocks,
    )
    return scaling, packed


def forward(role, layer, runs, x, weights, out):
    config = _config("forward", role, layer, out)
    if config.library:
        not_again()
        return library.forward(layer, runs, x, weights, out)
    tiles = tables.tiles(runs, config.BM, out.device)
    launch(
        out.device,
        convolution.forward,
        (len(tiles), layer.groups * triton.cdiv(layer.out_channels // layer.groups, config.BN)),
        x,
        weights.packed,
        weights.bias,
        out,
        tables.runs_on(runs, out.device),
        tiles,
        layer.slope,
        STEM=role == "stem",
        HEAD=role == "head",
        PRECISION=_precision(out),
        **_geometry(layer),
        **config.arguments(),
    )


def input_grad(role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
    config = _config("input_grad", role, layer, grad_in)
    if config.library:
        not_again()
        return library.input_grad(layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in)
    tiles = tables.phase_tiles(runs, layer, config.BM, grad_in.device)
    launch(
        grad_in.device,
        convolution.input_grad,
        (len(tiles), layer.groups * triton.cdiv(layer.in_channels // layer.groups, config.BN)),
        grad_out,
        weights.packed,
        saved,
        tuple(g if g is None or g.data_ptr() % ALIGNED == 0 else g.clone() for g in map_grads),
        matching,
        grad_in,
        tables.runs_on(runs, grad_in.device),
        tiles,
        slope,
        RUNS=len(runs),
        HEAD=role == "head",
        PRECISION=_precision(grad_in),
        **_geometry(layer),
        **config.arguments(),
    )


def stem_input_grad(layer, runs, grad_out, weights, grad_waves):
    ordered, tiles = tables.wave_tiles(runs, STEM_BLOCK, grad_waves.device)
    geometry = _geometry(layer)
    launch(
        grad_waves.device,
        stem.stem_input_grad,
        (len(tiles),),
        grad_out,
        weights.packed,
        grad_waves,
        ordered,
        tiles,
        **{key: geometry[key] for key in ("OUT", "TAPS", "STRIDE", "PADDING")},
        BM=STEM_BLOCK,
        BO=STEM_CHANNELS,
    )


@dataclass
class Sums:
    """One layer's sums of splits: gradients of effective weights and of biases, not yet those of the parameters."""

    partial: torch.Tensor  # [split, out, taps, in / groups]
    bias: torch.Tensor  # [split, out]
    of_set: dict  # {weight set: (first split, end)}


def weight_grad(role, layer, runs, x, grad_out, weights):
    config = _config("weight_grad", role, layer, grad_out)
    if config.library:
        not_again()
        sums, bias, own = library.weight_grad(layer, runs, x, grad_out, weights)
        return Sums(sums, bias, {s: (i, i + 1) for i, s in enumerate(own)})
    out_group, in_group = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    blocks = layer.groups * triton.cdiv(out_group, config.BM), triton.cdiv(layer.taps * in_group, config.BN)
    sets = len({run.weights for run in runs})
    # More splits of the rows fill the device, and all their sums are written: a fourth of what is read, at most.
    by_programs = triton.cdiv(PROGRAMS, blocks[0] * blocks[1] * sets)
    by_memory = (x.nbytes + grad_out.nbytes) // (4 * 4 * sets * layer.weights)
    splits = tables.splits(runs, config.BK, max(1, min(by_programs, by_memory)), grad_out.device)
    rows = len(splits.table), layer.out_channels
    sums, bias = (empty(shape, torch.float32, grad_out.device) for shape in ((*rows, layer.taps, in_group), rows))
    launch(
        grad_out.device,
        convolution.weight_grad,
        (len(splits.table), *blocks),
        x,
        grad_out,
        sums,
        bias,
        tables.runs_on(runs, grad_out.device),
        splits.tiles,
        splits.table,
        STEM=role == "stem",
        HEAD=role == "head",
        PRECISION=_precision(grad_out),
        **_geometry(layer),
        **config.arguments(),
    )
    return Sums(sums, bias, splits.of_set)


def parameter_grads(jobs):
    """`contract.LayerGrads` -> gradients of raws, magnitudes and biases: one launch, one more with spectral norm."""
    raws = _alike([job.weights.sets[job.sets[0]].raw for job in jobs])
    device = raws[0].device
    blocks = _rows(device)
    sums = {job.depth: job.sums for job in jobs}  # the same for every stack of a depth
    places = {depth: place for place, depth in enumerate(sums)}
    rows, spectral, elements, vectors = tables.finish_jobs(
        tuple([_finish_job(job, places[job.depth]) for job in jobs]), blocks["ROWS"], device
    )
    grads = empty((elements,), raws[0].dtype, device)
    magnitudes, biases = (empty((vectors,), grads.dtype, device) for _ in range(2))
    inners = empty((kernels.MOST_SETS.value * vectors,), torch.float32, device)
    slots = [(job.weights, s) for job in jobs for s in job.sets]
    scales = tuple([weights.scales[s] for weights, s in slots])
    norms = tuple([weights.lengths[s] for weights, s in slots])
    launch(
        device,
        kernels.finish,
        (len(rows.programs),),
        raws,
        tuple(own.partial for own in sums.values()),
        tuple(own.bias for own in sums.values()),
        scales,
        norms,
        inners,
        grads,
        magnitudes,
        biases,
        rows.programs,
        rows.table,
        **blocks,
    )
    _finish_spectral([job.states[s] for job in jobs for s in job.sets], spectral, inners, grads, blocks)
    return [grads], [magnitudes], [biases]


def _finish_job(job, place):
    """As `tables.finish_jobs` takes a `contract.LayerGrads` whose depth's sums are the `place`th."""
    splits = tuple(job.sums.of_set.get(s, (0, 0)) for s in job.sets)
    return _kind(job.weights.sets[job.sets[0]]), job.layer, place, splits


def _finish_spectral(states, jobs, inners, grads, blocks):
    """Adds the part of spectral-normed layers that comes through sigma; `states` of each slot, None of other norms."""
    known = [state for state in states if state is not None]
    if not known:
        return
    pointers = [[getattr(state or known[0], name) for state in states] for name in ("u", "v", "sigma")]
    launch(
        grads.device,
        kernels.finish_spectral,
        (len(jobs.programs),),
        *map(_alike, pointers),
        inners,
        grads,
        jobs.programs,
        jobs.table,
        **blocks,
    )


def pooled(sides, lengths):
    first = sides[0]
    memory, leads = zip(*map(from_aligned, sides))
    tiles, total = tables.pool_tiles(leads, len(first), tuple(lengths), MAP_BLOCK, first.device)
    out = first.new_empty(total)
    launch(out.device, pooling.pooled, (len(tiles),), memory, out, tiles, *lengths[:2], BLOCK=MAP_BLOCK)
    return out


def _parts(scores, targets, grads):
    """Scores as kernels take them: memory, and [part] as in adversarial.py; `grads`: where each one's begins, or -1."""
    memory, leads = zip(*map(from_aligned, scores))
    rows = tuple(zip((s.numel() for s in scores), targets, leads, grads))
    return memory, tables.numbers(rows, scores[0].device)


def squared_means(scores, targets, dtype):
    total, means = scores[0].new_empty((), dtype=dtype), scores[0].new_empty(len(scores), dtype=dtype)
    memory, parts = _parts(scores, targets, [-1] * len(scores))
    blocks = {"PARTS": len(scores), "BLOCK": SCORES_AT_ONCE}
    launch(total.device, adversarial.squared_means, (1,), memory, total, means, parts, **blocks)
    return total, means


def squared_means_backward(scores, targets, grad_total, grad_means, wanted):
    # A real score's gradient before its generated one's: as an ensemble's heads lie, which then need no copy.
    sizes, halves = [s.numel() for s in scores], len(set(targets))
    order = sorted(range(len(scores)), key=lambda i: i % (len(scores) // halves))
    places = dict(zip(order, itertools.accumulate((sizes[i] for i in order), initial=0)))
    grads = scores[0].new_empty(sum(sizes))
    memory, parts = _parts(scores, targets, [places[i] if want else -1 for i, want in enumerate(wanted)])
    launch(
        grads.device,
        adversarial.gradients,
        (len(scores), triton.cdiv(max(sizes), MAP_BLOCK)),
        memory,
        grad_total,
        grad_means,
        grads,
        parts,
        BLOCK=MAP_BLOCK,
    )
    own = dict(zip(order, grads.split([sizes[i] for i in order])))
    return [own[i].view(s.shape) if want else None for i, (s, want) in enumerate(zip(scores, wanted))]


def _chunks(real, generated):
    """Pairs of maps as kernels take them: memory of each side, and `tables.map_chunks`."""
    counts = tuple(m.numel() for m in real)
    (real, leads), (generated, others) = (zip(*map(from_aligned, side)) for side in (real, generated))
    return real, generated, *tables.map_chunks(counts, tuple(zip(leads, others)), MAP_CHUNK, real[0].device)


def feature_l1(real, generated):
    real, generated, chunks, pairs = _chunks(real, generated)
    partial = torch.empty(len(chunks), dtype=torch.float32, device=chunks.device)
    means = partial.new_empty(len(real))
    launch(
        chunks.device,
        l1.means,
        (len(chunks),),
        real,
        generated,
        partial,
        means,
        chunks,
        pairs,
        together.counters(chunks.device, len(real)),
        BLOCK=MAP_BLOCK,
    )
    return means


def feature_l1_backward(real, generated, grads, want_real, want_generated):
    wanted = [(m, want) for own in ((real, want_real), (generated, want_generated)) for m, want in zip(*own)]
    step = ALIGNED // real[0].itemsize
    sizes = [triton.cdiv(m.numel(), step) * step if want else 0 for m, want in wanted]
    *starts, total = itertools.accumulate(sizes, initial=0)
    flat, half = real[0].new_empty(total), len(real)
    places = [start if want else -1 for start, (_, want) in zip(starts, wanted)]
    memory, others, chunks, pairs = _chunks(real, generated)
    launch(
        flat.device,
        l1.gradients,
        (len(chunks),),
        memory,
        others,
        grads.contiguous(),
        flat,
        tables.numbers(tuple(zip(places[:half], places[half:])), flat.device),
        chunks,
        pairs,
        BLOCK=MAP_BLOCK,
    )
    found = [flat.as_strided(m.shape, m.stride(), start) if want else None for start, (m, want) in zip(starts, wanted)]
    return found[:half], found[half:]
