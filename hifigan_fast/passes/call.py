"""One call of an ensemble: what is asked, and its tensors as the passes read them."""

import itertools
from dataclasses import dataclass

import torch

from .. import norms
from ..backends.contract import ALIGNED, Backend, widened
from ..geometry import Ensemble


@dataclass
class Call:
    """One call of an ensemble.

    Attributes:
        dtype: of the maps; waveforms and parameters may be of another (autocast).
        states: spectral norm's states, [weight set][depth], None where a layer has another norm.
        save: what is kept of the maps, of `dispatch.SAVED`.
    """

    backend: Backend
    ensemble: Ensemble
    dtype: torch.dtype
    states: list
    save: str = "maps"

    def split(self, tensors):
        """Flat arguments -> waves [side][wave], parameters [stack][depth] of (raw, magnitude, bias)."""
        count = self.ensemble.sides * len(self.ensemble.lengths)
        return self.sides_of(tensors[:count]), self.layers_of(tensors[count:])

    def sides_of(self, waves):
        """Flat waves -> [side][wave]."""
        own = len(self.ensemble.lengths)
        return [list(waves[at : at + own]) for at in range(0, own * self.ensemble.sides, own)]

    def layers_of(self, parameters):
        """Flat parameters -> [stack][depth] of (raw, magnitude, bias)."""
        depths, triples = len(self.ensemble.layers), list(zip(parameters[::3], parameters[1::3], parameters[2::3]))
        return [triples[at : at + depths] for at in range(0, len(triples), depths)]

    def taken(self, parameters):
        """Flat parameters as kernels read them."""
        return norms.all_taken(parameters, self.dtype)

    def again(self, key, inputs, run):
        """`Backend.again` for a part of a pass."""
        if self.save != "maps":  # memory is scarce: what was saved is made on the way
            return run()
        programs = self.ensemble.once(("programs", self.backend), dict)
        return self.backend.again(programs, (self.dtype, *key), inputs, run)

    def again_with_states(self, key, inputs, run):
        """`again` for what reads spectral norm's states beside `inputs`."""
        states = [(n, s) for n, s in enumerate(itertools.chain.from_iterable(self.states)) if s is not None]
        inputs = [*inputs, *[t for _, s in states for t in (s.u, s.v, s.sigma)]]
        return self.again((*key, *[number for number, _ in states]), inputs, run)

    def weight_sets(self, layers):
        """The `WeightSet`s [depth][set], by parameters [stack][depth]."""
        pairs = list(zip(self.ensemble.set_stacks, self.states))
        return [
            [norms.weight_set(*layers[stack][depth], states[depth], self.dtype) for stack, states in pairs]
            for depth in range(len(self.ensemble.layers))
        ]

    def flat_states(self):
        """The tensors of `states`, three a layer."""
        return [t for own in self.states for s in own for t in ((s.u, s.v, s.sigma) if s else (None,) * 3)]

    def split_states(self, tensors):
        """The way back."""
        depths = len(self.ensemble.layers)
        triples = zip(tensors[::3], tensors[1::3], tensors[2::3])
        states = [None if u is None else norms.Spectral(u, v, sigma) for u, v, sigma in triples]
        return [states[at : at + depths] for at in range(0, len(states), depths)]

    def empty(self, depth, members, device):
        """A buffer for rows of `members` at `depth` (the output of layer depth - 1)."""
        _, rows = self.ensemble.offsets(depth, members)
        size = rows * self.ensemble.layers[depth - 1].out_channels
        if self.save != "maps":  # memory is scarce: no backend shall keep any for later
            return torch.empty(size, dtype=self.dtype, device=device)
        return self.backend.empty(size, self.dtype, device)


def flat_waves(call, waves):
    """Waveforms [side][wave] as a stem reads them: one flat tensor, a view where they lie one behind the other.

    A waveform may be None where nothing will read it.
    """
    e, given = call.ensemble, next(w for side in waves for w in side if w is not None)
    flat = in_a_row(
        [
            given.new_empty(e.samples * length) if wave is None else wave
            for side in waves
            for wave, length in zip(side, e.lengths)
        ]
    )
    return widened(flat, call.dtype)


def in_a_row(tensors):
    """Tensors as one flat tensor, in the order of their elements: a view where they lie one behind the other.

    It begins at an aligned address: kernels are compiled for such memory only.
    """
    starts, sizes = [t.data_ptr() for t in tensors], [t.numel() for t in tensors]
    ends = [start + size * tensors[0].itemsize for start, size in zip(starts, sizes)]
    lie = starts[0] % ALIGNED == 0 and ends[:-1] == starts[1:]
    if lie and all(t.is_contiguous() and not t.is_neg() for t in tensors):
        storage = tensors[0].untyped_storage()
        if ends[-1] <= storage.data_ptr() + storage.nbytes() and len({t.dtype for t in tensors}) == 1:
            return tensors[0].as_strided((sum(sizes),), (1,))
    return torch.cat([t.reshape(-1) for t in tensors])
