# SPDX-License-Identifier: Apache-2.0
"""ZCU106: Zynq UltraScale+ evaluation board, pages in DDR4."""

from .target import Connection, Family, Target, Window

ZCU106 = Target(
    name="zcu106",
    title="ZCU106, pages in DDR",
    board="AMD ZCU106",
    preset="zcu106",
    part="xczu7ev-ffvc1156-2-e",
    family=Family.ULTRASCALE_PLUS,
    nand=None,
    dram_base=0x8_0000_0000,
    dram_bytes=2 << 30,
    block_design="zynqmp.tcl.j2",
    lanes="X4",
    control_base=0xA000_0000,
    host="PCIe 3.0 x4 through the DMA/Bridge Subsystem in AXI Bridge mode (PG194, PG195)",
    clock="a clocking wizard behind pl_clk0",
    connections=(
        Connection(port="ap_clk, ap_rst_n", to="clk_wiz clk_out1, through proc_sys_reset",
                   why="one clock for the whole engine"),
        Connection(port="s_axi_control", to="xdma M_AXI_B (BAR 0) and zynq_ultra_ps_e M_AXI_HPM0_FPD",
                   why="registers and doorbells, for the host and for firmware that brings the board up"),
        Connection(port="m00_axi", to="xdma S_AXI_B",
                   why="queues, q, k, v and results in host or GPU memory, at bus addresses"),
        Connection(port="m01_axi and further managers", to="zynq_ultra_ps_e S_AXI_HP0_FPD",
                   why="stripe buffers, maps, scores and pages in DDR4"),
        Connection(port="interrupt", to="xdma usr_irq_req, pl_ps_irq0",
                   why="unread completions, a level, one vector"),
    ),
    windows=(
        Window(manager="host, through BAR 0", segment="s_axi_control", base=0, size=0x2000,
               what="registers and doorbells"),
        Window(manager="ARM, M_AXI_HPM0_FPD", segment="s_axi_control", base=0xA000_0000, size=0x2000,
               what="the same"),
        Window(manager="m00_axi", segment="xdma S_AXI_B", base=0, size=1 << 48,
               what="host memory, address for address"),
        Window(manager="m01_axi", segment="zynq_ultra_ps_e S_AXI_HP0_FPD", base=0x8_0000_0000, size=2 << 30,
               what="upper 2 GiB of the 4 GiB DDR4 of the processing system"),
    ),
    missing=(
        "What fills the pages in DDR: a drive beside the board, by P2P or by firmware.",
        "Persistence: pages in DDR are gone with the power.",
    ),
    sources=("part, DDR4, PCIe: UG1244, ZCU106 Evaluation Board User Guide",),
)
