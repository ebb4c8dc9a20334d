# SPDX-License-Identifier: Apache-2.0
"""The whole engine in a cocotb bench, driven by the shipping driver: cocotbext-axi memories, the NAND model.

`cocotb_sources` says what to build. Inside a cocotb test a `CocotbTransport` puts memories and a BAR manager
on the top's ports; the driver runs in a thread of its own over cocotb's bridge, while the bench watches or
disturbs every port::

    @cocotb.test()
    async def attends(dut):
        device = CocotbTransport(dut, config)
        await device.start()
        device.pause(0.3, np.random.default_rng(1))     # random back-pressure on both memories

        def program():                                  # ordinary blocking driver code
            with Csd(device, erased=True) as csd:
                cache = csd.kv_cache(...)

        await device.run(program)

For long runs see ``sim:PRESET``, which is many times faster.
"""

from .sources import cocotb_sources
from .transport import CocotbTransport

__all__ = ["CocotbTransport", "cocotb_sources"]
