"""GPUs by their makers' datasheets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Rates in TFLOP/s without sparsity, bandwidth in GB/s; and what a multiprocessor has.

    half: of float16, with sums in float32; of bfloat16 too from sm_80 on. tf32: of float32 where there is none.
    """

    target: str
    multiprocessors: int
    half: float
    tf32: float
    float32: float
    bandwidth: float
    threads: int = 2048
    registers: int = 65536
    shared: int = 228  # KiB

    def rate(self, arithmetic):
        """TFLOP/s of an arithmetic by its name: "float32", "tf32", "bfloat16" or "float16"."""
        return {"float32": self.float32, "tf32": self.tf32}.get(arithmetic, self.half)

    def arithmetic(self, precision):
        """What it multiplies in for "fp32", as PyTorch's convolutions do, or "bf16"; ValueError where it cannot."""
        old = int(self.target.removeprefix("sm_")) < 80
        if precision == "bf16" and old:
            raise ValueError(f"precision: expected fp32 on a device of {self.target}, which has no bfloat16, got bf16")
        return "bfloat16" if precision == "bf16" else "float32" if old else "tf32"


DEVICES = {
    "T4": Device("sm_75", 40, 65, 8.1, 8.1, 320, threads=1024, shared=64),
    "A100": Device("sm_80", 108, 312, 156, 19.5, 2039, shared=164),
    "RTX 4090": Device("sm_89", 128, 165, 82.6, 82.6, 1008, threads=1536, shared=100),
    "H100": Device("sm_90", 132, 989, 494, 67, 3350),
    "H200": Device("sm_90", 132, 989, 494, 67, 4800),
    "B200": Device("sm_100", 148, 2250, 1125, 80, 8000),
    "RTX 5090": Device("sm_120", 170, 210, 105, 105, 1792, threads=1536, shared=100),
}
SHORT = {name.split()[-1].lower(): name for name in DEVICES}


def named(short):
    """The device's name by its short one ("h200", "4090"); ValueError for one that is not here."""
    if short.lower() not in SHORT:
        raise ValueError(f"device_model: expected one of {', '.join(SHORT)}, got {short!r}")
    return SHORT[short.lower()]
