// SPDX-License-Identifier: Apache-2.0
// One channel's NAND package behind a wide PHY: `nand_core` with a front end that takes commands, addresses and
// beats of 8 bytes.
//
// The ports are `PhyPort` of hw/amaranth/instinfer/hw/signatures.py, flattened: `request_payload` = {count 12,
// byte 8, die 3, op 2}. A command or address cycle lasts COMMAND_CYCLES, a beat BEAT_CYCLES_X1000 / 1000 cycles.
module nand_package #(
    parameter int DIES = 2,
    parameter int PLANES = 2,
    parameter int BLOCKS = 16,
    parameter int PAGES = 8,
    parameter int PAGE_BYTES = 4096,
    parameter int SPARE_BYTES = 256,
    parameter int CLOCK_MHZ = 200,
    parameter int COMMAND_CYCLES = 5,
    parameter int BEAT_CYCLES_X1000 = 1000,
    parameter int T_R = 600,
    parameter int T_PROG = 2000,
    parameter int T_BERS = 4000,
    parameter int T_RCBSY = 100,
    parameter int T_PCBSY = 100,
    parameter int T_DBSY = 100,
    parameter int T_CCS = 100,
    parameter int T_WB = 20,
    parameter int T_RST = 100,
    parameter int T_FEAT = 200,
    parameter bit STOP_ON_ERROR = 0
) (
    input  logic            clk,
    input  logic            rst,
    input  logic [7:0]      channel,
    input  logic            request_valid,
    input  logic [24:0]     request_payload,
    output logic            request_ready,
    input  logic            write_valid,
    input  logic [63:0]     write_payload,
    output logic            write_ready,
    output logic            read_valid,
    output logic [63:0]     read_payload,
    output logic [DIES-1:0] ready,
    output logic            busy,
    output logic [31:0]     errors
);
  localparam logic [1:0] OP_DATA_OUT = 2, OP_DATA_IN = 3;

  // One request at a time.
  logic        active;
  logic [1:0]  op;
  logic [2:0]  die;
  logic [7:0]  value;
  logic [11:0] left;
  int          spent;  // cycles of a command; thousandths of a beat of a data request
  wire is_data = op[1];
  wire beat_time = spent + 1000 >= BEAT_CYCLES_X1000;
  wire step = active && (is_data ? beat_time && (op == OP_DATA_OUT || write_valid) : spent == COMMAND_CYCLES - 1);
  wire last_step = step && (!is_data || left == 1);

  assign busy = active;
  assign request_ready = !active || last_step;
  assign write_ready = active && op == OP_DATA_IN && beat_time;

  always_ff @(posedge clk) begin
    if (active) begin
      if (is_data) begin
        // A beat that waits for write data keeps no credit: the next one is a whole beat time later.
        spent <= step ? spent + 1000 - BEAT_CYCLES_X1000 : beat_time ? spent : spent + 1000;
        if (step) left <= left - 1;
      end else begin
        spent <= spent + 1;
      end
      if (last_step) active <= 0;
    end
    if (request_valid && request_ready) begin
      active <= 1;
      {left, value, die, op} <= request_payload;
      spent <= 0;
    end
    if (rst) active <= 0;
  end

  nand_core #(
      .DIES(DIES), .PLANES(PLANES), .BLOCKS(BLOCKS), .PAGES(PAGES), .PAGE_BYTES(PAGE_BYTES),
      .SPARE_BYTES(SPARE_BYTES), .CLOCK_MHZ(CLOCK_MHZ), .BEAT_CYCLES_X1000(BEAT_CYCLES_X1000), .T_R(T_R),
      .T_PROG(T_PROG), .T_BERS(T_BERS), .T_RCBSY(T_RCBSY), .T_PCBSY(T_PCBSY), .T_DBSY(T_DBSY),
      .T_CCS(T_CCS), .T_WB(T_WB), .T_RST(T_RST), .T_FEAT(T_FEAT), .STOP_ON_ERROR(STOP_ON_ERROR),
      .T_ADL(T_CCS), .T_WHR(T_WB)
  ) core (
      .clk, .rst, .channel, .step, .op, .die, .value, .write_payload, .read_valid, .read_payload, .ready, .errors,
      .timing_mode(), .shows_status()
  );
endmodule
