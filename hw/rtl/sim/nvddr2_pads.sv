// SPDX-License-Identifier: Apache-2.0
// Stand-in for a board's NV-DDR2 pads, for simulation: gives the outputs of `NvDdr2Pins` their fine time, and takes DQ
// by a DQS that comes STROBE_TICKS late. Its time is counted in rising edges of `tick`, eight for each cycle of `clk`,
// none at the same moment as an edge of `clk`; all outputs leave with the first tick behind the edge that made them.
module nvddr2_pads #(
    parameter int DIES = 2,
    parameter int STROBE_TICKS = 2
) (
    input  logic            clk,
    input  logic            tick,
    // `NvDdr2Pins`
    input  logic [DIES-1:0] ce_n,
    input  logic            cle, ale, we_n, wp_n,
    input  logic [3:0]      re_n,
    input  logic [15:0]     dq_o,
    input  logic            dq_oe,
    input  logic [3:0]      dqs_o,
    input  logic            dqs_oe,
    output logic [7:0]      dq_i, dq_rise, dq_fall,
    output logic            strobe,
    // the package's pins
    output logic [DIES-1:0] pin_ce_n,
    output logic            pin_cle, pin_ale, pin_we_n, pin_wp_n, pin_re_n,
    output logic [7:0]      pin_dq_o,
    output logic            pin_dq_oe, pin_dqs_o, pin_dqs_oe,
    input  logic [7:0]      pin_dq_i,
    input  logic            pin_dqs_i
);
  logic clk_was = 0;
  logic [2:0] eighth = 0, next;
  logic [STROBE_TICKS:0] late = 0;
  assign next = clk && !clk_was ? 3'd0 : eighth + 3'd1;
  assign strobe = late[STROBE_TICKS];
  assign dq_i = pin_dq_i;

  always_ff @(posedge tick) begin
    clk_was <= clk;
    eighth <= next;
    {pin_ce_n, pin_cle, pin_ale, pin_we_n, pin_wp_n} <= {ce_n, cle, ale, we_n, wp_n};
    {pin_dq_oe, pin_dqs_oe} <= {dq_oe, dqs_oe};
    pin_re_n <= re_n[next[2:1]];
    pin_dqs_o <= dqs_o[next[2:1]];
    pin_dq_o <= next[2] ? dq_o[15:8] : dq_o[7:0];
    late <= {late[STROBE_TICKS-1:0], pin_dqs_oe ? pin_dqs_o : pin_dqs_i};
  end
  always_ff @(posedge strobe) dq_rise <= pin_dq_i;
  always_ff @(negedge strobe) dq_fall <= pin_dq_i;
endmodule
