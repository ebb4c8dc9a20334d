// SPDX-License-Identifier: Apache-2.0
// One channel's NAND package behind ONFI's pins: `nand_core` with a front end that follows CE_n, CLE, ALE, WE_n,
// RE_n and DQ, and asserts the table of the timing mode that each die is in. That is SDR; dies that were brought into
// NV-DDR2 are left to `nand_nvddr2`. NVDDR2_MODES: those that the parameter page lists (bit 0: mode 0), PS: its times.
//
// `dq_o`, `dq_oe` are what the controller drives, `dq_i` what it sees. Pins are looked at in the middle of each cycle
// of `clk`, from whose rising edges they are driven; a time is the number of cycles between two edges, times the
// period. Data out are right from tREA (tCEA) after the falling edge to tRHOH (tRLOH) after the next one, and
// something else before and behind. NS_x: nanoseconds of ONFI's tX, 16 bits for each timing mode, mode 0 lowest; no
// check where all are 0. Rules and limits: docs/blocks/nand_model.md.
module nand_pins #(
    parameter int DIES = 2,
    parameter int PLANES = 2,
    parameter int BLOCKS = 16,
    parameter int PAGES = 8,
    parameter int PAGE_BYTES = 4096,
    parameter int SPARE_BYTES = 256,
    parameter int CLOCK_MHZ = 200,
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
    parameter logic [95:0] NS_WP = 0, NS_WH = 0, NS_WC = 0, NS_CS = 0, NS_CH = 0, NS_CEH = 0, NS_CLS = 0, NS_CLH = 0,
    parameter logic [95:0] NS_ALS = 0, NS_ALH = 0, NS_DS = 0, NS_DH = 0, NS_WW = 0, NS_ADL = 0,
    parameter logic [95:0] NS_RP = 0, NS_REH = 0, NS_RC = 0, NS_REA = 0, NS_RHOH = 0, NS_RLOH = 0, NS_RHZ = 0,
    parameter logic [95:0] NS_CEA = 0, NS_CHZ = 0, NS_CR = 0, NS_CLR = 0, NS_AR = 0, NS_RR = 0, NS_WHR = 0, NS_RHW = 0,
    parameter logic [7:0] NVDDR2_MODES = 0,
    parameter logic [6559:0] PS = 0,
    parameter bit STOP_ON_ERROR = 0
) (
    input  logic            clk,
    input  logic            rst,
    input  logic [7:0]      channel,
    input  logic [DIES-1:0] ce_n,
    input  logic            cle,
    input  logic            ale,
    input  logic            we_n,
    input  logic            re_n,
    input  logic            wp_n,
    input  logic [7:0]      dq_o,
    input  logic            dq_oe,
    input  logic            dqs_o,
    input  logic            dqs_oe,
    input  logic [17:0]     dqsre_ps,
    output logic            dqs_i,
    output logic [7:0]      dq_i,
    output logic [DIES-1:0] ready,
    output logic [31:0]     errors
);
  import "DPI-C" function void nand_report(int channel, int die, longint cycle, string text);
  import "DPI-C" function void nand_offer(int channel, int die, int at, int value);

  localparam longint LONG_AGO = -64'd1_000_000_000;
  localparam logic [7:0] SET_FEATURES = 8'hEF;
  localparam int MODES_AT = 142;  // of NV-DDR2, in the parameter page

  wire middle = ~clk;  // of a cycle
  longint now = 0;
  int own_errors = 0;

  // -- pins of the cycle before, and when they changed ----------------------------------------
  logic [DIES-1:0] ce_n_was = '1, ready_was = '1;
  logic cle_was = 0, ale_was = 0, we_n_was = 1, re_n_was = 1, wp_n_was = 0, oe_was = 0;
  logic [7:0] dq_was = 0;
  longint we_fall = LONG_AGO, we_rise = LONG_AGO, re_fall = LONG_AGO, re_rise = LONG_AGO, wp_rise = LONG_AGO;
  longint cle_change = LONG_AGO, ale_change = LONG_AGO, dq_change = LONG_AGO;
  longint ce_fall[DIES] = '{default: LONG_AGO}, ce_rise[DIES] = '{default: LONG_AGO};
  longint ready_rise[DIES] = '{default: LONG_AGO}, address_rise[DIES] = '{default: LONG_AGO};
  longint last_write[DIES] = '{default: LONG_AGO}, last_read[DIES] = '{default: LONG_AGO};

  // -- dies in NV-DDR2 ------------------------------------------------------------------------
  logic [DIES-1:0] shows_status, nvddr2, own_ce_n;
  logic [DIES-1:0][7:0] timing_mode;
  logic nv_step, nv_drives;
  logic [1:0] nv_op;
  logic [2:0] nv_at;
  logic [7:0] nv_value, nv_dq;
  logic [63:0] nv_write;
  logic [31:0] nv_errors;
  always_comb for (int d = 0; d < DIES; d++) nvddr2[d] = timing_mode[d][5:4] == 2;
  assign own_ce_n = ce_n | nvddr2;
  nand_nvddr2 #(.DIES(DIES), .CLOCK_MHZ(CLOCK_MHZ), .PS(PS), .STOP_ON_ERROR(STOP_ON_ERROR)) fast (
      .clk(middle), .rst, .channel, .ce_n(ce_n | ~nvddr2), .cle, .ale, .we_n, .re_n, .wp_n, .dq_o, .dq_oe, .dqs_o,
      .dqs_oe, .dqsre_ps, .dq_i(nv_dq), .dqs_i, .drives(nv_drives), .step(nv_step), .op(nv_op), .at(nv_at),
      .value(nv_value), .write_payload(nv_write), .read_valid, .read_payload, .ready, .shows_status, .timing_mode,
      .errors(nv_errors)
  );

  // -- what the bus does to the core in this cycle --------------------------------------------
  // The first die whose CE_n is low: now, and before, when what WE_n and RE_n end in this cycle was begun.
  logic any, had;
  logic [2:0] selected, former;
  always_comb begin
    {any, selected, had, former} = 0;
    for (int d = DIES - 1; d >= 0; d--) begin
      if (!own_ce_n[d]) {any, selected} = {1'b1, 3'(d)};
      if (!ce_n_was[d]) {had, former} = {1'b1, 3'(d)};
    end
  end
  logic [7:0] last_command[DIES];
  logic [2:0] in_at[DIES], out_at[DIES];   // bytes of the beat under way
  logic [63:0] in_bytes[DIES], out_bytes[DIES];

  wire latches = had && we_n && !we_n_was;
  wire [2:0] at = latches ? former : selected;
  wire takes_data = latches && !cle_was && !ale_was;
  wire [2:0] in_last = last_command[at] == SET_FEATURES ? 3'd3 : 3'd7;
  wire beat_in = takes_data && in_at[at] == in_last;
  wire gives_data = any && !re_n && re_n_was;
  wire beat_out = gives_data && (out_at[at] == 0 || shows_status[at]);
  wire step = latches && !takes_data || beat_in || !latches && beat_out;
  wire [1:0] op = !latches ? 2'd2 : cle_was ? 2'd0 : ale_was ? 2'd1 : 2'd3;
  wire [63:0] joined = {dq_was, in_bytes[at][63:8]};
  wire [63:0] write_payload = in_last == 3 ? {32'd0, joined[63:32]} : joined;
  wire [63:0] read_payload;
  wire [31:0] core_errors;
  logic read_valid;

  nand_core #(
      .DIES(DIES), .PLANES(PLANES), .BLOCKS(BLOCKS), .PAGES(PAGES), .PAGE_BYTES(PAGE_BYTES),
      .SPARE_BYTES(SPARE_BYTES), .CLOCK_MHZ(CLOCK_MHZ), .BEAT_CYCLES_X1000(1), .T_R(T_R), .T_PROG(T_PROG),
      .T_BERS(T_BERS), .T_RCBSY(T_RCBSY), .T_PCBSY(T_PCBSY), .T_DBSY(T_DBSY), .T_CCS(T_CCS), .T_WB(T_WB),
      .T_RST(T_RST), .T_FEAT(T_FEAT), .STOP_ON_ERROR(STOP_ON_ERROR), .T_ADL(0), .T_WHR(0)
  ) core (
      .clk(middle), .rst, .channel, .step(step || nv_step), .op(nv_step ? nv_op : op), .die(nv_step ? nv_at : at),
      .value(nv_step ? nv_value : dq_was), .write_payload(nv_step ? nv_write : write_payload), .read_valid, .read_payload,
      .ready, .errors(core_errors), .timing_mode, .shows_status
  );
  assign errors = core_errors + 32'(own_errors) + nv_errors;

  // -- data out -------------------------------------------------------------------------------
  logic [2:0] shown_at = 0;
  logic [2:0] shown_die = 0;
  logic fresh = 0;
  logic [7:0] old_byte = 0;
  wire [63:0] shown_beat = fresh ? read_payload : out_bytes[shown_die];
  wire [7:0] byte_out = shown_beat[8 * shown_at +: 8];
  logic right, old_right, drives;
  always_comb begin
    // Of the end of this cycle, at which a controller looks.
    right = !early(now + 1, re_fall, NS_REA, shown_die) && !early(now + 1, ce_fall[shown_die], NS_CEA, shown_die) &&
            (!re_n || !late(now + 1, re_rise, NS_RHOH, shown_die));
    old_right = !re_n && !late(now + 1, re_fall, NS_RLOH, shown_die) && !late(now + 1, re_rise, NS_RHOH, shown_die);
    dq_i = dq_oe ? dq_o : nv_drives ? nv_dq : right ? byte_out : old_right ? old_byte : ~byte_out ^ 8'(now);
  end

  function automatic longint ns(input logic [95:0] table_, input logic [2:0] d);
    logic [7:0] mode = timing_mode[d];
    return longint'(table_[16 * (mode[3:0] > 5 ? 5 : int'(mode[3:0])) +: 16]);
  endfunction

  // Less, more than the time from `from` to `to`.
  function automatic bit early(input longint to, input longint from, input logic [95:0] table_, input logic [2:0] d);
    return (to - from) * 1000 < ns(table_, d) * CLOCK_MHZ;
  endfunction
  function automatic bit late(input longint to, input longint from, input logic [95:0] table_, input logic [2:0] d);
    return (to - from) * 1000 > ns(table_, d) * CLOCK_MHZ;
  endfunction

  task automatic broken(input int d, input string rule);
    own_errors = own_errors + 1;
    nand_report(int'(channel), d, now, rule);
    if (STOP_ON_ERROR) $error("nand_pins: channel %0d die %0d cycle %0d: %s", channel, d, now, rule);
  endtask

  task automatic check(input int d, input longint from, input logic [95:0] table_, input string name);
    if (early(now, from, table_, 3'(d)))
      broken(d, $sformatf("%s of timing mode %0d: %0d cycles, at least %0d ns", name, timing_mode[d], now - from,
                          ns(table_, 3'(d))));
  endtask

  task automatic power_on();
    for (int d = 0; d < DIES; d++) begin
      ce_fall[d] = LONG_AGO;
      ce_rise[d] = LONG_AGO;
      ready_rise[d] = LONG_AGO;
      address_rise[d] = LONG_AGO;
      last_write[d] = LONG_AGO;
      last_read[d] = LONG_AGO;
      last_command[d] <= 0;
      if (NVDDR2_MODES != 0) nand_offer(int'(channel), d, MODES_AT, int'(NVDDR2_MODES));
      in_at[d] <= 0;
      out_at[d] <= 0;
    end
  endtask

  // -- edges ----------------------------------------------------------------------------------
  task automatic chips_fall();
    for (int d = 0; d < DIES; d++) begin
      if (!own_ce_n[d] && ce_n_was[d]) begin
        if (!we_n && !we_n_was || !re_n && !re_n_was) broken(d, "CE_n moves while WE_n or RE_n is low");
        check(d, ce_rise[d], NS_CEH, "tCEH");
        ce_fall[d] = now;
        if ($countones(~own_ce_n) > 1) broken(d, "two dies are selected");
      end
      if (ready[d] && !ready_was[d]) ready_rise[d] = now;
    end
    if (wp_n && !wp_n_was) wp_rise = now;
  endtask

  task automatic chips_rise();
    for (int d = 0; d < DIES; d++)
      if (own_ce_n[d] && !ce_n_was[d]) begin
        if (!we_n || !re_n) broken(d, "CE_n moves while WE_n or RE_n is low");
        check(d, last_write[d], NS_CH, "tCH");
        ce_rise[d] = now;
      end
  endtask

  task automatic write_falls(input int d);
    if (!we_n && we_n_was) begin
      check(d, we_rise, NS_WH, "tWH");
      check(d, we_fall, NS_WC, "tWC");
      check(d, last_read[d], NS_RHW, "tRHW");
      check(d, wp_rise, NS_WW, "tWW");
      if (!re_n) broken(d, "WE_n falls while RE_n is low");
      we_fall = now;
    end
  endtask

  task automatic write_rises(input int d);
    if (we_n && !we_n_was) begin
      check(d, we_fall, NS_WP, "tWP");
      check(d, ce_fall[d], NS_CS, "tCS");
      check(d, cle_change, NS_CLS, "tCLS");
      check(d, ale_change, NS_ALS, "tALS");
      check(d, dq_change, NS_DS, "tDS");
      if (cle_was && ale_was) broken(d, "CLE and ALE are both high");
      if (!oe_was) broken(d, "nobody drives DQ");
      if (!wp_n) broken(d, "WP_n is low");
      if (!cle_was && !ale_was) check(d, address_rise[d], NS_ADL, "tADL");
      we_rise = now;
      last_write[d] = now;
      if (ale_was) address_rise[d] = now;
    end
  endtask

  task automatic read_falls(input int d);
    if (!re_n && re_n_was) begin
      check(d, re_rise, NS_REH, "tREH");
      check(d, re_fall, NS_RC, "tRC");
      check(d, last_write[d], NS_WHR, "tWHR");
      check(d, ce_fall[d], NS_CR, "tCR");
      check(d, cle_change, NS_CLR, "tCLR");
      check(d, ale_change, NS_AR, "tAR");
      if (ready[d]) check(d, ready_rise[d], NS_RR, "tRR");
      if (cle || ale) broken(d, "RE_n falls while CLE or ALE is high");
      re_fall = now;
    end
  endtask

  task automatic read_rises(input int d);
    if (re_n && !re_n_was) begin
      check(d, re_fall, NS_RP, "tRP");
      re_rise = now;
      last_read[d] = now;
    end
  endtask

  task automatic levels(input int d);
    if (cle != cle_was) begin
      check(d, we_rise, NS_CLH, "tCLH");
      cle_change = now;
    end
    if (ale != ale_was) begin
      check(d, we_rise, NS_ALH, "tALH");
      ale_change = now;
    end
    if (dq_oe != oe_was || dq_oe && dq_o != dq_was) begin
      check(d, we_rise, NS_DH, "tDH");
      dq_change = now;
    end
    // The NAND lets go tRHZ after RE_n, tCHZ after CE_n.
    if (dq_oe && (drives || !re_n && any)) begin
      broken(d, "DQ driven from both sides (tRHZ)");
      drives = 0;
    end
  endtask

  task automatic bytes(input int d);
    if (latches) begin
      if (cle_was) last_command[d] <= dq_was;
      if (takes_data) begin
        in_bytes[d] <= joined;
        in_at[d] <= beat_in ? 0 : in_at[d] + 1;
      end else begin
        if (cle_was && dq_was inside {8'h10, 8'h11, 8'h15} && in_at[d] != 0)
          broken(d, "data in ended inside a beat of 8 bytes, a limit of this model");
        in_at[d] <= 0;
        // After 70h and 78h, 00h goes on where the data stood.
        if (cle_was && !(dq_was inside {8'h00, 8'h70, 8'h78})) out_at[d] <= 0;
      end
    end
    if (gives_data) begin
      if (drives && shown_die != at) broken(d, "two dies drive DQ");
      old_byte = byte_out;
      drives = 1;
      shown_die = at;
      fresh = beat_out;
      shown_at = shows_status[d] ? 0 : out_at[d];
      if (!shows_status[d]) out_at[d] <= out_at[d] + 1;
    end
  endtask

  always @(posedge middle) begin
    now = now + 1;
    // What was read last time, before another die's beat replaces it.
    if (read_valid && fresh && !shows_status[shown_die]) out_bytes[shown_die] = read_payload;
    if (drives && re_n && re_n_was && (!early(now, re_rise, NS_RHZ, shown_die) ||
                           own_ce_n[shown_die] && ce_n_was[shown_die] && !early(now, ce_rise[shown_die], NS_CHZ, shown_die))) drives = 0;
    if (rst) begin
      power_on();
    end else begin
      chips_fall();
      if (had) begin
        write_rises(int'(former));
        read_rises(int'(former));
      end
      if (any) begin
        write_falls(int'(selected));
        read_falls(int'(selected));
      end
      bytes(int'(at));
      chips_rise();
      levels(int'(had ? former : selected));
    end
    ce_n_was <= own_ce_n;
    ready_was <= ready;
    cle_was <= cle;
    ale_was <= ale;
    we_n_was <= we_n;
    re_n_was <= re_n;
    wp_n_was <= wp_n;
    oe_was <= dq_oe;
    dq_was <= dq_o;
  end
endmodule
