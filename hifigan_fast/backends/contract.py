"""What a backend does: every operation of an ensemble's forward and backward pass, one depth at a time.

All buffers are flat and contiguous, and begin at aligned addresses. Maps and their gradients are of one floating
dtype; waveforms, parameters and the gradients of both are of the same, or of float32 where the maps are of half of it:
effective weights are then rounded. Activations and their gradients are rows of channels, laid out as
`hifigan_fast.geometry.Run` says: a member's rows are [samples, period, rows, channels]. Heads are H-major, [samples,
rows, period], so that the logits are a view. Waveforms are samples in a row. No operation allocates what it returns
through an argument, none keeps a reference to a buffer, and none changes an input.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..geometry import Layer

ALIGNED = 16  # bytes: where buffers begin, and what a load of a GPU takes at most


@functools.lru_cache(maxsize=512)
def is_dense(shape, strides):
    """Whether the elements of such a tensor fill their memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for size, stride in sorted(((n, s) for n, s in zip(shape, strides) if n > 1), key=lambda d: d[1]):
        if stride != expected:
            return False
        expected *= size
    return True


def as_it_lies(tensor):
    """The elements of a dense tensor in the order of their addresses, flat."""
    return tensor.as_strided((tensor.numel(),), (1,))


@dataclass
class WeightSet:
    """The parameters of one layer under one set: effective weights are raw · scale, a scale an output channel.

    Attributes:
        raw: [out, in / groups, taps] or [out, in / groups, taps, 1]: weight norm's direction, spectral norm's original,
            or the plain weight.
        magnitude: weight norm's g, out elements; None otherwise.
        sigma: spectral norm's σ, a scalar tensor; None otherwise.
        bias: [out].
    """

    raw: torch.Tensor
    magnitude: torch.Tensor | None
    sigma: torch.Tensor | None
    bias: torch.Tensor


class Weights:
    """One layer's weights for a whole ensemble, normalised.

    Attributes:
        scales, norms: of each set, [out]; None for the norm of another kind. lengths: the norms, whatever the kind.
        bias: [sets, out].
        packed: the effective weights in the backend's own form, where it has one.
    """

    def __init__(self, sets, scaling, bias, packed):
        self.sets, self._scaling, self._bias, self.packed = sets, scaling, bias, packed

    @functools.cached_property
    def bias(self):
        return self._bias.view(len(self.sets), -1)

    @functools.cached_property
    def scales(self):
        return self._scaling[1].view(len(self.sets), -1).unbind()

    @functools.cached_property
    def lengths(self):
        return self._scaling[2].view(len(self.sets), -1).unbind()

    @functools.cached_property
    def norms(self):
        return [None if s.magnitude is None else norm for s, norm in zip(self.sets, self.lengths)]


@dataclass
class LayerGrads:
    """What the gradients of one layer of one stack are made of.

    Attributes:
        sums: what `Backend.weight_grad` returned for the depth.
        states: spectral norm's states of all sets at this depth (`norms.Spectral`), None under another norm.
        sets: the stack's sets that had rows.
    """

    layer: Layer
    depth: int
    sums: object
    weights: Weights
    states: list
    sets: list[int]


def packed_room(layer, sets):
    """Elements that the packed weights of a layer take: the next layer's begin at an aligned address in any dtype."""
    return -(-sets * layer.weights // ALIGNED) * ALIGNED


def packed_parts(packed, layers, sets):
    """Views of packed weights: of each layer its own, under so many `sets`, and the room behind them, which nothing
    writes."""
    sizes = [(count * layer.weights, packed_room(layer, count)) for layer, count in zip(layers, sets)]
    return packed.split_with_sizes([size for own, room in sizes for size in (own, room - own)])


def weights_of(layers, sets, scaling, packed):
    """What `Backend.prepare` returned for `WeightSet`s [depth][set] -> `Weights` [depth], views of it."""
    rows = [len(own) * layer.out_channels for layer, own in zip(layers, sets)]
    parts, biases = scaling.split_with_sizes(rows, 1), scaling[0].split_with_sizes(rows)
    forms = [None] * len(rows)
    if packed.numel():
        forms = packed_parts(packed, layers, map(len, sets))[::2]
    return [Weights(*own) for own in zip(sets, parts, biases, forms)]


def wide(dtype):
    """The dtype that waveforms and parameters may have beside float32, for maps of `dtype`: not bfloat16."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def widened(tensor, dtype):
    """Waveforms and parameters as backends take them for maps of `dtype`."""
    return tensor if tensor.dtype == wide(dtype) else tensor.float()


def _iterate(matrix, u, v, eps):
    F.normalize(torch.mv(matrix.t(), u), dim=0, eps=eps, out=v)
    F.normalize(torch.mv(matrix, v), dim=0, eps=eps, out=u)


class Backend(ABC):
    """Runs the operations of an ensemble. `role` is "stem", "conv" or "head"; `runs` a tuple of `geometry.Run`."""

    name: str
    # Whether it has `pooled` and `squared_means`: worth it where launches cost more than what they do. Plain PyTorch's
    # poolings and adversarial losses run where it has not.
    fuses_small_work = False
    packs = False  # whether `prepare` returns effective weights in a form of its own
    flat_grads = False  # whether `parameter_grads` returns one tensor of a kind
    scaling_dtype = None  # of what `prepare` returns; None: the widened parameters'

    @abstractmethod
    def cannot_run(self, device, dtype):
        """Why this backend cannot run tensors of `device` and `dtype`, in words; None if it can."""

    def only_on_request(self, device):
        """Why it runs on `device` only where it is asked for by name, in words; None if it is for everyday use."""
        return None

    def contact(self, device):
        """What its kernels are and what they meet on `device`, {what: name or version}, the device's name as "device".

        None where they were tested as they are. Otherwise they are checked before they are trusted (`trust`), once for
        each such contact and `arithmetic`.
        """
        return None

    def arithmetic(self, device, dtype):
        """What maps of `dtype` are multiplied in on `device`, in a word."""
        return str(dtype).removeprefix("torch.")

    def advice(self, device):
        """How it may become faster on `device`, in words; None where nothing is known."""
        return None

    def by_others(self, device, dtype, layers):
        """Which of `layers`, neither stems nor heads, others' kernels than its own run, in words; None where none."""
        return None

    def whole(self, run):
        """What `run()` returns: all launches of a pass, which may be begun again. A backend may prepare for them."""
        return run()

    def empty(self, count, dtype, device):
        """A flat buffer of `count` elements, not initialised."""
        return torch.empty(count, dtype=dtype, device=device)

    def again(self, programs, key, inputs, run):
        """`run()`, lists of buffers made by this backend's operations on `inputs`; perhaps without asking it again.

        Args:
            programs: a dict, of one ensemble's, for what the backend keeps.
            key: what `run` goes by, beside the ensemble and the kinds of its inputs.
            inputs: all tensors that it reads, or None.
        """
        return run()

    def power_iterations(self, matrices, eps, iterations, calls):
        """Spectral norm after each of `calls` times `iterations`: u [calls, all rows], v [calls, all columns], sigma.

        Args:
            matrices: (W [out, ...] of out · n elements, u [out], v [n]) each; u and v are moved on, in place.
            iterations: of v = Wᵀ u / |Wᵀ u|, u = W v / |W v|; lengths are at least `eps`. 0: nothing moves, all calls
                have the first one's sigma, and u and v are not copied: [1, 0].

        Returns: beside u and v, which the next call does not move, sigma = uᵀ W v [calls or 1, matrices].
        """
        found, matrices = [], [(matrix.flatten(1), u, v) for matrix, u, v in matrices]
        for _ in range(calls if iterations else 1):
            for _ in range(iterations):
                for matrix in matrices:
                    _iterate(*matrix, eps)
            sigma = torch.stack([torch.dot(u, torch.mv(matrix, v)) for matrix, u, v in matrices])
            vectors = [torch.cat(part) if iterations else sigma.new_empty(0) for part in list(zip(*matrices))[1:]]
            found.append((*vectors, sigma))
        return tuple(map(torch.stack, zip(*found)))

    @abstractmethod
    def prepare(self, layers, sets, dtype):
        """`WeightSet`s [depth][set] -> what `weights_of` takes for maps of `dtype`: (scaling, packed).

        scaling [3, rows] holds the biases, scales and norms of all output channels, by depth and set: biases begin at
        an aligned address, however many rows there are. A norm is the Euclidean one of a channel's weights, where
        there is a magnitude; a scale is magnitude / norm, 1 / sigma or 1.
        packed: of `dtype`, by depth, as many elements as `packed_room` says; none unless the backend `packs`.
        """

    @abstractmethod
    def forward(self, role, layer, runs, x, weights, out):
        """out = leaky(conv(x) + bias). x: rows, or the waveforms for a stem."""

    @abstractmethod
    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        """grad_in = (convᵀ(grad_out) + map_grad) · leaky'(saved), for a conv or head.

        saved: the layer's input, its sign is the mask of the layer below, whose slope is `slope`; map_grads: for each
        run None or the caller's gradient of that input: dense, in memory as the run's layout says, whatever its shape.

        matching: None; or float32 [runs], for feature matching without gradients of maps in memory: map_grads are then
        the other side's maps, and what is added is matching · sign(saved - map).
        """

    @abstractmethod
    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        """Adds each run's gradient of the waveforms to `grad_waves`, which the caller has zeroed."""

    @abstractmethod
    def weight_grad(self, role, layer, runs, x, grad_out, weights):
        """-> sums over the rows of all runs, in the backend's own form, for `parameter_grads`."""

    @abstractmethod
    def parameter_grads(self, jobs):
        """`LayerGrads` -> the gradients of (raws, magnitudes, biases), a list each.

        One tensor a job, None for the magnitude of another norm; where `flat_grads`, one tensor for all jobs, in whose
        magnitudes other norms have zeros. The sums may be overwritten.
        """

    def pooled(self, sides, lengths):
        """Waveforms [batch, 1, length], one a side -> flat [side][level][batch][lengths[level]], each level pooled."""
        raise NotImplementedError

    def squared_means(self, scores, targets, dtype):
        """Tensors and a target (0 or 1) for each -> the sum of the means of (score - target)², and the means [tensors].

        Both are of `dtype`.
        """
        raise NotImplementedError

    def squared_means_backward(self, scores, targets, grad_total, grad_means, wanted):
        """Gradients of the sum and of the means (or None) -> of the scores, a list with None where not wanted."""
        raise NotImplementedError

    @abstractmethod
    def feature_l1(self, real, generated):
        """Lists of maps of equal dense layout -> the mean |real - generated| of each pair, [pairs]."""

    @abstractmethod
    def feature_l1_backward(self, real, generated, grads, want_real, want_generated):
        """grads [pairs] -> (gradients of real, gradients of generated), lists with None where not wanted."""
