# SPDX-License-Identifier: Apache-2.0
"""What the tests share: seeds, the cocotb harness for Amaranth components, stream drivers and monitors.

Outside the simulator (in pytest): `run_cocotb`, `bundle`, `BenchFailure`. Inside it (in benches):
`bench`, `parameters`, `start`, `StreamSource`, `StreamSink`. In both: `rng`. `CONTRIBUTING.md` shows a
block test.
"""

from support.harness import BenchFailure, bundle, run_cocotb
from support.seeds import rng

__all__ = ["BenchFailure", "bundle", "rng", "run_cocotb"]
