"""What tests need of the machine that they run on."""

import pytest

from hifigan_fast.backends import cpu

needs_extension = pytest.mark.skipif(cpu.extension()[0] is None, reason=str(cpu.extension()[1]))
