# SPDX-License-Identifier: Apache-2.0
"""Cosmos+ OpenSSD: Zynq-7000, eight NAND channels."""

from .target import Connection, Family, NandPins, Target, Window

COSMOSPLUS = Target(
    name="cosmosplus",
    title="Cosmos+ OpenSSD",
    board="Cosmos+ OpenSSD",
    preset="cosmosplus",
    part="xc7z045ffg900-3",
    family=Family.SERIES_7,
    nand=NandPins(
        channels=8, targets=8, mega_transfers=200, data="LVCMOS18", control="SSTL18_II",
        strobe="DIFF_SSTL18_II", enable="LVCMOS18", ready="SSTL18_II",
        source="pin constraints of the public Cosmos+ OpenSSD project (standards, not locations)",
    ),
    dram_base=0x2000_0000,
    dram_bytes=512 << 20,
    block_design="zynq7.tcl.j2",
    lanes="X8",
    control_base=0x43C0_0000,
    host="PCIe 2.0 x8 through the AXI Memory Mapped to PCI Express bridge (PG055)",
    clock="FCLK_CLK0 of the processing system",
    connections=(
        Connection(port="ap_clk, ap_rst_n", to="processing_system7 FCLK_CLK0, through proc_sys_reset",
                   why="one clock for the whole engine"),
        Connection(port="s_axi_control", to="axi_pcie M_AXI (BAR 0) and processing_system7 M_AXI_GP0",
                   why="registers and doorbells, for the host and for firmware that brings the board up"),
        Connection(port="m00_axi", to="axi_pcie S_AXI",
                   why="queues, q, k, v and results in host or GPU memory, at bus addresses"),
        Connection(port="m01_axi", to="processing_system7 S_AXI_HP0",
                   why="stripe buffers, maps and scores in DDR3"),
        Connection(port="interrupt", to="axi_pcie INTX_MSI_Request, IRQ_F2P",
                   why="unread completions, a level; MSI needs an edge: the host polls or uses INTx"),
        Connection(port="nand0_* to nandLAST_*", to="the NAND modules", why="one flash channel each"),
    ),
    windows=(
        Window(manager="host, through BAR 0", segment="s_axi_control", base=0, size=0x2000,
               what="registers and doorbells"),
        Window(manager="ARM, M_AXI_GP0", segment="s_axi_control", base=0x43C0_0000, size=0x2000,
               what="the same"),
        Window(manager="m00_axi", segment="axi_pcie S_AXI", base=0, size=1 << 32,
               what="host memory, address for address, as far as the bridge's BAR reaches: 4 GiB"),
        Window(manager="m01_axi", segment="processing_system7 S_AXI_HP0", base=0x2000_0000, size=512 << 20,
               what="upper half of the 1 GB DDR3; the lower half is left to firmware"),
    ),
    missing=(
        "The board's own NVMe controller and firmware: the engine takes their place, it is no block device.",
        "Host memory above 4 GiB: the bridge of the 7 series is set up for 32-bit addresses here.",
        "Pin locations: they depend on the board's revision and the NAND module.",
    ),
    sources=(
        "part, NAND pins and their I/O standards: constraints of the public Cosmos+ OpenSSD project",
        "page and spare size, ways, DDR3: its firmware's configuration and the project's documentation",
    ),
)
