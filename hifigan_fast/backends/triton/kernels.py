"""The Triton kernels, the sizes that they are launched with, and their launches."""

from dataclasses import replace

import triton

from ..gpu import devices
from ..gpu.kernels import Kernels
from . import adversarial, configs, convolution, feature_l1, launch, others, pooling, spectral, stem, weights

# Rows of weights a program, and elements of each at a time.
ROWS = {
    "pack": {"ROWS": 4, "ELEMENTS": 256},
    "finish": {"ROWS": 1, "ELEMENTS": 2048},
    "finish_spectral": {"ROWS": 4, "ELEMENTS": 256},
}
ROWS_INTERPRETED = {"ROWS": 128, "ELEMENTS": 1024}
# Of W v rows a tile and columns at a time, of Wᵀ u rows at a time and columns a tile.
SPECTRAL = {"ROWS": 8, "BLOCK": 512, "HEIGHT": 64, "COLUMNS": 64, "num_warps": 8}
SPECTRAL_INTERPRETED = {"ROWS": 128, "BLOCK": 1024, "HEIGHT": 256, "COLUMNS": 1024}
REGISTERS = {"maxnreg": 128}  # of a thread; of `iterate` because all programs must run at once
STAGES = 3  # of a block narrower than its class's
OPTIONS = {"enable_fp_fusion": True}  # a product's sum rounded once: Triton's default to 3.9, not from 3.10 on


def stretch(direction, layer, columns):
    """How many consecutive rows of a layer are one row of the matrix product, where it has so many columns.

    As many as fit, but with at most half as many taps more; of an input gradient whole strides, or 1.
    """
    if direction == "input_grad":
        taps = triton.cdiv(layer.taps, layer.stride)
        fit = columns // (layer.in_channels // layer.groups * layer.stride)
        return max(1, layer.stride * min(fit, 1 + taps // 2))
    fit = columns // (layer.out_channels // layer.groups)
    return max(1, min(fit, 1 + layer.taps // (2 * layer.stride)))


class TritonKernels(Kernels):
    pack, finish, finish_spectral, iterate = weights.pack, weights.finish, weights.finish_spectral, spectral.iterate
    forward, input_grad, weight_grad = convolution.forward, convolution.input_grad, convolution.weight_grad
    stem_input_grad, pooled = stem.stem_input_grad, pooling.pooled
    stem_places = 128
    squared_means, squared_means_gradients = adversarial.squared_means, adversarial.gradients
    l1_means, l1_gradients = feature_l1.means, feature_l1.gradients
    run, on_device, watched = map(staticmethod, (launch.run, launch.on_device, launch.watched))

    def launch(self, device, kernel, grid, *args, **meta):
        super().launch(device, kernel, grid, *args, **meta, **OPTIONS)

    def config(self, direction, role, layer, like):
        found = configs.of(direction, role, layer, like)
        columns = "BM" if direction == "weight_grad" else "BN"
        if role == "conv":
            found = replace(found, stretch=stretch(direction, layer, getattr(found, columns)))
        # No block is wider than what there is, but for rows of a product that cannot be turned.
        channels = (layer.in_channels if direction == "input_grad" else layer.out_channels) // layer.groups
        widest = max(16, triton.next_power_of_2(found.stretch * channels))
        if widest < getattr(found, columns) and (
            columns == "BN" or convolution.turns(found.BN, devices.precision(like, layer))
        ):  # and no more stages than leave room for a second program
            found = replace(found, **{columns: widest}, num_stages=min(found.num_stages, STAGES))
        return getattr(self, direction), found

    def stand_in(self, direction, role, layer, like):
        return others.stand_in(direction, role, layer, like)

    def of_rows(self, name, device):
        return _sizes(device, ROWS[name], ROWS_INTERPRETED)

    def of_matrices(self, device):
        return _sizes(device, SPECTRAL, SPECTRAL_INTERPRETED)

    def state(self, device):
        return self.launch, configs.config, configs.state(), devices.tf32(device), device


def _sizes(device, compiled, interpreted):
    capability = devices.capability(device)
    if capability is None:
        return interpreted
    return compiled | REGISTERS if isinstance(capability, tuple) else compiled  # registers: NVIDIA's
