"""From parameters to effective weights and back, as launches: grids, tables and buffers."""

import torch

from . import devices, tables
from .counters import counters
from .devices import precision
from .fields import MOST_SETS, Norm
from .pointers import alike
from .program import empty

SPECTRAL_PROGRAMS = 2  # of each multiprocessor, all of which must run at once


def power_iterations(kernels, matrices, eps, iterations, calls):
    """As the contract says, in one launch."""
    weights, us, vs = zip(*matrices)
    like = weights[0]
    blocks = kernels.of_matrices(like.device)
    jobs, by_row, by_column, outs, sizes = tables.spectral_jobs(
        tuple((u.numel(), v.numel()) for u, v in zip(us, vs)), blocks["ROWS"], blocks["COLUMNS"], like.device
    )
    apart = calls if iterations else 1
    s, t = (torch.empty(apart, size, dtype=torch.float32, device=like.device) for size in (outs, sizes))
    u, v = (torch.empty(apart, size, dtype=like.dtype, device=like.device) for size in (outs, sizes))
    sigmas = torch.empty(apart, len(jobs), dtype=torch.float32, device=like.device)
    kernels.launch(
        like.device,
        kernels.iterate,
        (SPECTRAL_PROGRAMS * devices.multiprocessors(like.device),),
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
        counters(like.device, 1),
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
        **blocks,
    )
    if not iterations:
        return u.new_empty(1, 0), v.new_empty(1, 0), sigmas
    for moved in (*us, *vs):  # written behind autograd's back
        torch.autograd.graph.increment_version(moved)
    return u, v, sigmas


def _kind(weight_set):
    if weight_set.magnitude is not None:
        return Norm.WEIGHT
    return Norm.PLAIN if weight_set.sigma is None else Norm.SPECTRAL


def prepare(kernels, layers, sets, dtype):
    """`WeightSet`s [depth][set] -> (scaling, packed), in one launch."""
    like = sets[0][0].raw
    kinds, blocks = tuple(tuple(_kind(s) for s in own) for own in sets), kernels.of_rows("pack", like.device)
    jobs, elements, rows = tables.pack_jobs(tuple(layers), kinds, blocks["ROWS"], like.device)
    flat = [s for own in sets for s in own]
    packed = empty((elements,), dtype, like.device)
    scaling = empty((3, rows), torch.float32, like.device)
    biases, scales, norms = scaling.unbind()
    kernels.launch(
        like.device,
        kernels.pack,
        (len(jobs.programs),),
        alike([s.raw for s in flat]),
        alike([s.raw if s.magnitude is None else s.magnitude for s in flat]),
        alike([s.raw if s.sigma is None else s.sigma for s in flat]),
        alike([s.bias for s in flat]),
        packed,
        scales,
        norms,
        biases,
        jobs.programs,
        jobs.table,
        PRECISION=precision(packed),
        **blocks,
    )
    return scaling, packed


def parameter_grads(kernels, jobs):
    """`contract.LayerGrads` -> gradients of raws, magnitudes and biases: one launch, one more with spectral norm."""
    raws = alike([job.weights.sets[job.sets[0]].raw for job in jobs])
    device = raws[0].device
    blocks, spectral_blocks = (kernels.of_rows(name, device) for name in ("finish", "finish_spectral"))
    sums = {job.depth: job.sums for job in jobs}  # the same for every stack of a depth
    places = {depth: place for place, depth in enumerate(sums)}
    rows, spectral, elements, vectors = tables.finish_jobs(
        tuple([_finish_job(job, places[job.depth]) for job in jobs]), blocks["ROWS"], spectral_blocks["ROWS"], device
    )
    grads = empty((elements,), raws[0].dtype, device)
    magnitudes, biases = (empty((vectors,), grads.dtype, device) for _ in range(2))
    inners = empty((MOST_SETS * vectors,), torch.float32, device)
    slots = [(job.weights, s) for job in jobs for s in job.sets]
    scales = tuple([weights.scales[s] for weights, s in slots])
    norms = tuple([weights.lengths[s] for weights, s in slots])
    kernels.launch(
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
    states = [job.states[s] for job in jobs for s in job.sets]
    _finish_spectral(kernels, states, spectral, inners, grads, spectral_blocks)
    return [grads], [magnitudes], [biases]


def _finish_job(job, place):
    """As `tables.finish_jobs` takes a `contract.LayerGrads` whose depth's sums are the `place`th."""
    splits = tuple(job.sums.of_set.get(s, (0, 0)) for s in job.sets)
    return _kind(job.weights.sets[job.sets[0]]), job.layer, place, splits


def _finish_spectral(kernels, states, jobs, inners, grads, blocks):
    """Adds the part of spectral-normed layers that comes through sigma; `states` of each slot, None of other norms."""
    known = [state for state in states if state is not None]
    if not known:
        return
    pointers = [[getattr(state or known[0], name) for state in states] for name in ("u", "v", "sigma")]
    kernels.launch(
        grads.device,
        kernels.finish_spectral,
        (len(jobs.programs),),
        *map(alike, pointers),
        inners,
        grads,
        jobs.programs,
        jobs.table,
        **blocks,
    )
