# SPDX-License-Identifier: Apache-2.0
"""SmartSSD: Kintex UltraScale+ beside an NVMe drive, an XRT kernel, pages in DDR4."""

from instinfer.abi.kernel import CONTROL_BYTES

from .target import Connection, Family, Target, Window

SMARTSSD = Target(
    name="smartssd",
    title="SmartSSD, XRT kernel, pages in DDR",
    board="Samsung SmartSSD",
    preset="smartssd",
    part="xcku15p-ffva1156-2LV-e",
    family=Family.ULTRASCALE_PLUS,
    nand=None,
    platform="xilinx_u2_gen3x4_xdma_gc_base_2",
    dram_base=0,
    dram_bytes=2 << 30,
    block_design=None,
    host="PCIe 3.0 x4 through the platform: queues and operands lie in the card's DDR4, which the host maps",
    clock="the platform's kernel clock 0, asked for in the link configuration",
    connections=(
        Connection(port="ap_clk, ap_rst_n", to="the platform's kernel clock and reset", why="made by v++"),
        Connection(port="s_axi_control", to="the platform's control interconnect",
                   why="kernel registers, and the engine's registers and doorbells behind them"),
        Connection(port="m00_axi", to="the card's DDR4 (bank0)",
                   why="queues, q, k, v and results, in buffers that the host maps through the P2P BAR"),
        Connection(port="m01_axi and further managers", to="the card's DDR4 (bank0)",
                   why="stripe buffers, maps, scores and pages"),
        Connection(port="interrupt", to="the platform's interrupt controller", why="by GIE, IER, ISR"),
    ),
    windows=(
        Window(manager="XRT", segment="s_axi_control", base=0, size=CONTROL_BYTES,
               what="kernel registers at 0, the BAR at 2000h"),
        Window(manager="m00_axi", segment="bank0", base=0, size=4 << 30, what="4 GB DDR4, device addresses"),
        Window(manager="m01_axi", segment="bank0", base=0, size=4 << 30,
               what="the same; the engine's addresses count from the argument device_memory"),
    ),
    missing=(
        "A transport of the host driver over XRT: open_csd() has none for this board.",
        "What moves pages between the drive's NAND and the DDR4: P2P reads and writes by the host.",
        "Host or GPU memory: a kernel of this platform reaches the card's DDR4 alone.",
    ),
    sources=(
        "part, platform: build logs of public projects for the card",
        "register layout, package_xo, kernel.xml: UG1393, Vitis Application Acceleration Development",
    ),
)
