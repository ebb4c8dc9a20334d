# SPDX-License-Identifier: Apache-2.0
"""Daisy+ OpenSSD: Zynq UltraScale+, four NAND channels."""

from .target import Connection, Family, NandPins, Target, Window

DAISYPLUS = Target(
    name="daisyplus",
    title="Daisy+ OpenSSD",
    board="Daisy+ OpenSSD",
    preset="daisyplus",
    part="xczu17eg-ffvc1760-2-e",
    family=Family.ULTRASCALE_PLUS,
    nand=NandPins(
        channels=4, targets=8, mega_transfers=133, data="LVCMOS18", control="SSTL18_I",
        strobe="DIFF_SSTL18_I", enable="LVCMOS18", ready="LVCMOS18",
        source="pin constraints of the public Daisy+ OpenSSD project (standards, not locations)",
    ),
    dram_base=0x2000_0000,
    dram_bytes=512 << 20,
    block_design="zynqmp.tcl.j2",
    lanes="X16",
    control_base=0xA000_0000,
    host="PCIe 3.0 x16 through the DMA/Bridge Subsystem in AXI Bridge mode (PG194, PG195)",
    clock="a clocking wizard behind pl_clk0: 133.0 MHz, not more, or the NAND runs too fast",
    connections=(
        Connection(port="ap_clk, ap_rst_n", to="clk_wiz clk_out1, through proc_sys_reset",
                   why="one clock for the whole engine"),
        Connection(port="s_axi_control", to="xdma M_AXI_B (BAR 0) and zynq_ultra_ps_e M_AXI_HPM0_FPD",
                   why="registers and doorbells, for the host and for firmware that brings the board up"),
        Connection(port="m00_axi", to="xdma S_AXI_B",
                   why="queues, q, k, v and results in host or GPU memory, at bus addresses"),
        Connection(port="m01_axi", to="zynq_ultra_ps_e S_AXI_HP0_FPD",
                   why="stripe buffers, maps and scores in LPDDR4"),
        Connection(port="interrupt", to="xdma usr_irq_req, pl_ps_irq0",
                   why="unread completions, a level, one vector"),
        Connection(port="nand0_* to nandLAST_*", to="the NAND modules", why="one flash channel each"),
    ),
    windows=(
        Window(manager="host, through BAR 0", segment="s_axi_control", base=0, size=0x2000,
               what="registers and doorbells"),
        Window(manager="ARM, M_AXI_HPM0_FPD", segment="s_axi_control", base=0xA000_0000, size=0x2000,
               what="the same"),
        Window(manager="m00_axi", segment="xdma S_AXI_B", base=0, size=1 << 48,
               what="host memory, address for address"),
        Window(manager="m01_axi", segment="zynq_ultra_ps_e S_AXI_HP0_FPD", base=0x2000_0000, size=512 << 20,
               what="upper half of the 1 GB LPDDR4; the lower half is left to firmware"),
    ),
    missing=(
        "The board's own NVMe controller and firmware: the engine takes their place, it is no block device.",
        "The DIMM: the engine uses the processing system's LPDDR4.",
        "Pin locations: they depend on the board's revision and the NAND module.",
    ),
    sources=(
        "part, NAND pins and their I/O standards: constraints of the public Daisy+ OpenSSD project",
        "page and spare size, ways, PCIe, LPDDR4: its documentation",
    ),
)
