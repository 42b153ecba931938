"""The parity gate: outputs, feature maps and gradients against float64, by the ratio rule.

A tensor passes if its error is at most twice that of plain PyTorch in the same dtype (root mean square, and maximum),
plus a floor of a few ulp. Each implementation is held against a float64 reference that takes the same side of every
leaky ReLU: a pre-activation within rounding of zero may fall on either side, which is no error, but turns its gradient
by a factor of ten.

Where float32 may be multiplied in TF32, PyTorch does so in every layer of more than one channel (`reference.tf32`):
which ones cuDNN takes in float32 all the same is its choice of the moment, by shape (docs/gpu.md).
"""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import torch

from . import dispatch, losses, reference, step_losses
from .backends.gpu import devices
from .discriminators import MultiPeriodDiscriminator, MultiScaleDiscriminator
from .geometry import LRELU_SLOPE
from .ratios import (
    FLOOR_ULPS,
    LIMIT,
    SMALL,
    SMALL_FLOOR_ULPS,
    TF32_FLOOR_ULPS,
    TF32_SMALL_FLOOR_ULPS,
    error_ratio,
    weigh,
)
from .reference import tf32

ENSEMBLES = {
    "mpd": (MultiPeriodDiscriminator, reference.MultiPeriodDiscriminator),
    "msd": (MultiScaleDiscriminator, reference.MultiScaleDiscriminator),
}

STEPS = "step gradients"  # begin at a few scores that are nearly alike: their errors in float32 are chance


@dataclass
class Result:
    """What one implementation gave: {class of output: {name: tensor}}, and the maps whose signs its gradients took."""

    tensors: dict
    maps: tuple


@dataclass
class Verdict:
    """The worst error ratio of each class of outputs, and the tensor it was found in."""

    worst: dict = field(default_factory=dict)

    def add(self, kind, name, ratio):
        ratio = float("inf") if ratio != ratio else ratio
        if ratio >= self.worst.get(kind, (-1.0, ""))[0]:
            self.worst[kind] = (ratio, name)

    @property
    def ratio(self):
        return max(ratio for ratio, _ in self.worst.values())

    @property
    def passed(self):
        return self.ratio <= LIMIT

    def __str__(self):
        ranked = sorted(self.worst.items(), key=lambda found: -found[1][0])
        said = [f"{ratio:.2f} ({kind}: {name})" for kind, (ratio, name) in ranked]
        others = [text for text, (_, (ratio, _)) in zip(said[1:], ranked[1:]) if ratio > LIMIT]
        more = f"; also above {LIMIT}: {', '.join(others)}" if others else ""
        return f"{'ok' if self.passed else 'FAIL'}, worst ratio {said[0]}{more}"


def trained_like(module, seed=0):
    """Bring random discriminators nearer to trained ones: uneven magnitudes, biases, settled singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64, device="cpu").to(parameter)
            if name.endswith("weight_g"):
                parameter.mul_(1.5 * torch.exp(0.5 * noise))
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
        for conv in module.modules():
            if hasattr(conv, "weight_orig"):
                matrix = conv.weight_orig.flatten(1)
                for _ in range(20):
                    conv.weight_v.copy_(torch.nn.functional.normalize(matrix.t() @ conv.weight_u, dim=0))
                    conv.weight_u.copy_(torch.nn.functional.normalize(matrix @ conv.weight_v, dim=0))
    return module


def evaluate(module, y, y_hat, seed=0, autocast=None):
    """Run a discriminator ensemble forward and backward, under autocast to a dtype if wanted -> `Result`.

    The gradients are those of a random smooth function of every output, so that none has a sign to flip.
    """
    y, y_hat = (x.detach().clone().requires_grad_() for x in (y, y_hat))
    with _autocast(y, autocast):
        outputs = module(y, y_hat)
    tensors = {"logits": {}, "maps": {}}
    for side, logits, maps in (("real", outputs[0], outputs[2]), ("generated", outputs[1], outputs[3])):
        for i, score in enumerate(logits):
            tensors["logits"][f"{side}, discriminators.{i}"] = score
            tensors["maps"].update({f"{side}, discriminators.{i}, map {depth}": m for depth, m in enumerate(maps[i])})
    generator = torch.Generator().manual_seed(seed)
    total = sum(weigh(t, generator) for kind in ("logits", "maps") for t in tensors[kind].values())
    for parameter in module.parameters():
        parameter.grad = None
    total.backward()
    tensors = {kind: {name: t.detach() for name, t in named.items()} for kind, named in tensors.items()}
    with torch.no_grad():
        tensors["losses"] = {
            "feature": losses.feature_loss(outputs[2], outputs[3]),
            "discriminator": losses.discriminator_loss(outputs[0], outputs[1])[0],
            "generator": losses.generator_loss(outputs[1])[0],
        }
    tensors["waveform gradients"] = {"real": y.grad, "generated": y_hat.grad}
    for name, parameter in module.named_parameters():
        kind = "bias" if name.endswith("bias") else "magnitude" if name.endswith("weight_g") else "weight"
        tensors.setdefault(f"{kind} gradients", {})[name] = parameter.grad
    return Result(tensors, (outputs[2], outputs[3]))


def _autocast(y, dtype):
    return torch.autocast(y.device.type, dtype) if dtype else contextlib.nullcontext()


def evaluate_steps(module, y, y_hat, autocast=None, generator_half=step_losses.generator_step_loss):
    """Both halves of a training step, by the step losses -> {class of output: {name: tensor}}.

    The discriminators' gradients, and through frozen ones the generated waveform's. module: makes an ensemble for each.
    """
    own = module()
    with _autocast(y, autocast):
        first = step_losses.discriminator_step_loss(own, y, y_hat).adversarial
    first.backward()
    frozen_one, generated = module().requires_grad_(False), y_hat.clone().requires_grad_()
    with _autocast(y, autocast):
        second = generator_half(frozen_one, y, generated)
    (second.adversarial + second.features).backward()
    grads = {**{name: p.grad for name, p in own.named_parameters()}, "generated": generated.grad}
    values = {"discriminator": first, "generator": second.adversarial, "feature": second.features}
    return {"step losses": {name: loss.detach() for name, loss in values.items()}, STEPS: grads}


def _taking_sides(module, maps):
    """The reference `module`, whose one pair of calls takes the leaky ReLU branches that `maps` took."""
    for index, discriminator in enumerate(module.discriminators):
        for depth, conv in enumerate(discriminator.convs):
            signs = iter([side[index][depth].detach() > 0 for side in maps])

            def hook(conv, args, out, signs=signs):
                up, positive = next(signs), out > 0
                turn = torch.where(up & ~positive, 1 / LRELU_SLOPE, torch.where(~up & positive, LRELU_SLOPE, 1.0))
                return out * turn.to(out)

            conv.register_forward_hook(hook)
    return module


def judge(ours, plain, oracle_of_ours, oracle_of_plain, dtype, in_tf32=False):
    """Hold two results against float64 -> `Verdict` on the first; in_tf32: float32 ones that are multiplied so."""
    verdict, eps, ulps, small_ulps = Verdict(), torch.finfo(dtype).eps, FLOOR_ULPS, SMALL_FLOOR_ULPS
    if in_tf32:
        eps, ulps, small_ulps = tf32.EPS, TF32_FLOOR_ULPS, TF32_SMALL_FLOOR_ULPS
    for kind, named in ours.tensors.items():
        floor, small = small_ulps if kind == STEPS and dtype == torch.float32 else ulps, []
        for name in named:
            pair = tuple(
                (result.tensors[kind][name], oracle.tensors[kind][name])
                for result, oracle in ((ours, oracle_of_ours), (plain, oracle_of_plain))
            )
            if pair[0][1] is not None and pair[0][1].numel() < SMALL:
                small.append(pair)
            else:
                verdict.add(kind, name, error_ratio([pair], floor, eps))
        if small:
            verdict.add(kind, "small tensors together", error_ratio(small, small_ulps, eps))
    return verdict


def compare(fast, plain, y, y_hat, backends=(None,), seed=0, autocast=None, steps=False):
    """Judge a drop-in ensemble by a reference ensemble with the same state, in the dtype of `y` or under autocast to
    another -> {backend: Verdict}.

    Both are copied by their state and stay as they are. A backend of None is the one that would be chosen.

    Args:
        steps: judge what `evaluate_steps` gives, too.
    """

    def run(module, backend):
        # What is judged are kernels: not what is saved at the price of exactness, where that was asked for.
        with dispatch.save("maps"), dispatch.use_backend(backend) if backend else contextlib.nullcontext():
            result = evaluate(_copy(module), y, y_hat, seed, autocast)
            if steps:
                result.tensors |= evaluate_steps(lambda: _copy(module), y, y_hat, autocast)
        return result

    def oracle(result):
        def module():
            return _taking_sides(_copy(plain).double(), result.maps)

        waves = y.double(), y_hat.double()
        with dispatch.use_backend("reference"):
            exact = evaluate(module(), *waves, seed)
            if steps:
                exact.tensors |= evaluate_steps(module, *waves, generator_half=_on_sides(result.maps))
        return exact

    results = {backend: run(fast, backend) for backend in backends}
    dtype = autocast or y.dtype
    in_tf32 = dtype == torch.float32 and devices.tf32(y.device)
    with tf32.InTF32() if in_tf32 else contextlib.nullcontext():
        theirs = run(plain, "reference")
    oracle_of_theirs = oracle(theirs)
    verdicts = {}
    for backend, ours in results.items():
        oracle_of_ours = oracle_of_theirs if _same_sides(ours, theirs, steps) else oracle(ours)
        verdicts[backend] = judge(ours, theirs, oracle_of_ours, oracle_of_theirs, dtype, in_tf32)
    return verdicts


def _same_sides(a, b, steps):
    """Whether two results took the same side of every leaky ReLU; with `steps`, of every |real - generated| too."""
    leaky = zip(*([m for side in result.maps for own in side for m in own[:-1]] for result in (a, b)))
    if not all(torch.equal(x > 0, y > 0) for x, y in leaky):
        return False
    return not steps or all(map(torch.equal, _distances(*a.maps), _distances(*b.maps)))


def _pairs(real, generated):
    return (pair for sides in zip(real, generated) for pair in zip(*sides))


def _distances(real, generated):
    """The sign of real - generated, for each pair of maps."""
    return [(r.detach().double() - g.detach().double()).sign() for r, g in _pairs(real, generated)]


def _on_sides(maps):
    """`generator_step_loss` whose feature matching takes the side of each |real - generated| that `maps` took."""
    signs = _distances(*maps)

    def generator_half(module, y, y_hat):
        _, scores, real, generated = module(y, y_hat)
        features = 2 * sum((sign * (r - g)).mean() for sign, (r, g) in zip(signs, _pairs(real, generated)))
        adversarial, terms = losses.generator_loss(scores)
        return step_losses.GeneratorStepLoss(adversarial, features, torch.stack(terms))

    return generator_half


def _copy(module):
    """A new ensemble of equal state: legacy weight norm survives no deep copy."""
    periods, like = [d.period for d in module.discriminators if hasattr(d, "period")], next(module.parameters())
    with like.device:  # on a GPU in no time
        copied = type(module)(periods) if periods else type(module)()
    copied.load_state_dict(module.state_dict())
    return copied.to(like).train(module.training)


def build_pair(name, seed=0, trained=False, ensembles=None):
    """A drop-in and a reference ensemble of equal state, of `ensembles` (None: `ENSEMBLES`)."""
    pair = []
    for build in (ensembles or ENSEMBLES)[name]:
        torch.manual_seed(seed)
        pair.append(build())
    if trained:
        trained_like(pair[0], seed)
        pair[1].load_state_dict(pair[0].state_dict())
    return pair


def waveforms(batch, length, dtype=torch.float32, clips=None, seed=0):
    """A real and a generated-like batch [batch, 1, length]: crops of `clips` (arrays), and the same with noise.

    Without clips, of the package's synthetic voice.
    """
    from .voice import synthetic_voice

    rng = np.random.default_rng(seed)
    clips = clips or [synthetic_voice(max(2.0, length / 22050 + 0.1), seed=seed)]
    y = np.empty((batch, 1, length))  # at once: a batch that does not fit fails here, not crop by crop
    for index in range(batch):
        clip = np.asarray(clips[index % len(clips)], dtype=np.float64)
        clip = np.pad(clip, (0, max(0, length - len(clip))))
        start = rng.integers(0, len(clip) - length + 1)
        y[index, 0] = clip[start : start + length]
    y_hat = np.clip(0.9 * y + 0.02 * rng.standard_normal(y.shape), -1, 1)
    return tuple(torch.from_numpy(x).to(dtype) for x in (y, y_hat))


def able(autocast=None, device="cpu"):
    """The names of the backends that run on a device unasked, in float32 or under autocast to a dtype."""
    device, dtype = torch.device(device), autocast or torch.float32
    return [name for name, backend in dispatch.BACKENDS.items() if not dispatch.refusal(backend, device, dtype)]


def check(batch=1, length=8192, clips=None, autocast=None, backends=None, report=None, device="cpu", ensembles=None):
    """`backends`, or every one that can run on `device`, on `ensembles`, trained-like, in float32 or under autocast to
    a dtype -> {ensemble: {backend: Verdict}}.

    ensembles: {name: (makes ours, makes plain PyTorch's), each to be made of its periods alone}; None: both.
    `report(ensemble, {backend: Verdict})` is called as soon as an ensemble is judged.
    """
    y, y_hat = (wave.to(device) for wave in waveforms(batch, length, clips=clips))
    verdicts = {}
    for name in ensembles or ENSEMBLES:
        pair = [module.to(device) for module in build_pair(name, trained=True, ensembles=ensembles)]
        verdicts[name] = compare(*pair, y, y_hat, backends or able(autocast, device), autocast=autocast)
        if report:
            report(name, verdicts[name])
    return verdicts
