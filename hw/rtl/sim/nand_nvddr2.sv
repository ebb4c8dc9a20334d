// SPDX-License-Identifier: Apache-2.0
// Front end of `nand_pins` for dies that are in NV-DDR2: follows CE_n, CLE, ALE, WE_n, RE_n, DQ and DQS, asserts the
// table of the timing mode that each die is in, and answers RE_n with DQS and DQ.
//
// `ce_n` is 1 for dies in another interface. Pins are looked at with each rising edge of `clk`; a time is a number of
// these. Each edge of RE_n in a burst gives an edge of DQS `dqsre_ps` later; its byte is right from tDQSQ to tQH behind
// that edge and something else otherwise. DQS is driven, low, from tDQSD after RE_n fell. PS: picoseconds of each time
// of `time_t`, 20 bits for each of eight modes, mode 0 lowest. Rules and limits: docs/blocks/nand_model.md.
module nand_nvddr2 #(
    parameter int DIES = 2,
    parameter int CLOCK_MHZ = 800,
    parameter logic [6559:0] PS = 0,
    parameter bit STOP_ON_ERROR = 0
) (
    input  logic            clk,
    input  logic            rst,
    input  logic [7:0]      channel,
    input  logic [DIES-1:0] ce_n,
    input  logic            cle, ale, we_n, re_n, wp_n,
    input  logic [7:0]      dq_o,
    input  logic            dq_oe, dqs_o, dqs_oe,
    input  logic [17:0]     dqsre_ps,
    output logic [7:0]      dq_i,
    output logic            dqs_i,
    output logic            drives,        // both of them
    // core
    output logic            step,
    output logic [1:0]      op,
    output logic [2:0]      at,
    output logic [7:0]      value,
    output logic [63:0]     write_payload,
    input  logic            read_valid,
    input  logic [63:0]     read_payload,
    input  logic [DIES-1:0] ready, shows_status,
    input  logic [DIES-1:0][7:0] timing_mode,
    output logic [31:0]     errors
);
  import "DPI-C" function void nand_report(int channel, int die, longint cycle, string text);

  // In the order of `instinfer.abi.onfi.NVDDR2_TIMING`.
  typedef enum int {
    DSC, RC, DQSH, DQSL, REH, RP, WP, WH, WC, CS, CH, CEH, CALS, CALH, CAS, CAH, WW, ADL, WB, DS, DH, DBS, CDQSS, WPRE,
    WPST, WPSTH, RPRE, RPST, RPSTH, DQSD, DQSRE_MIN, DQSRE, DQSQ, QH, CHZ, CR, CLR, AR, RR, WHR, RHW
  } time_t;
  localparam longint LONG_AGO = -64'd1_000_000_000;
  localparam logic [7:0] GET_FEATURES = 8'hEE, SET_FEATURES = 8'hEF, READ_ID = 8'h90;

  longint now = 0;
  logic [DIES-1:0] ce_n_was = '1, ready_was = '1;
  logic cle_was = 0, ale_was = 0, we_n_was = 1, re_n_was = 1, wp_n_was = 0, dqs_was = 1, dqs_oe_was = 0, oe_was = 0;
  logic [7:0] dq_was = 0;
  longint we_fall = LONG_AGO, we_rise = LONG_AGO, re_fall = LONG_AGO, re_rise = LONG_AGO, re_rest = LONG_AGO,
          wp_rise = LONG_AGO, cle_rise = LONG_AGO, cle_fall = LONG_AGO, ale_rise = LONG_AGO, ale_fall = LONG_AGO,
          dq_change = LONG_AGO, dqs_fall = LONG_AGO, dqs_rise = LONG_AGO, exit_in = LONG_AGO, exit_out = LONG_AGO,
          data_edge = LONG_AGO, asleep_from = LONG_AGO;
  longint ce_fall[DIES] = '{default: LONG_AGO}, ce_rise[DIES] = '{default: LONG_AGO},
          ready_rise[DIES] = '{default: LONG_AGO}, address_rise[DIES] = '{default: LONG_AGO},
          last_write[DIES] = '{default: LONG_AGO};
  typedef enum logic [2:0] {NONE, PREAMBLE_IN, IN, PREAMBLE_OUT, OUT} burst_t;
  burst_t burst = NONE;
  logic first_in = 0, first_out = 0;    // the next edge is the first one behind the preamble

  // -- the die on the bus ---------------------------------------------------------------------
  logic any, had;
  logic [2:0] selected, former;
  always_comb begin
    {any, selected, had, former} = 0;
    for (int d = DIES - 1; d >= 0; d--) begin
      if (!ce_n[d]) {any, selected} = {1'b1, 3'(d)};
      if (!ce_n_was[d]) {had, former} = {1'b1, 3'(d)};
    end
  end

  // -- what the core does ---------------------------------------------------------------------
  logic [7:0] last_command[DIES];
  logic [3:0] in_at[DIES], out_at[DIES];  // transfers of the beat under way
  logic [63:0] in_bytes[DIES];
  wire latches = had && we_n && !we_n_was && (cle_was || ale_was);
  assign at = latches ? former : selected;
  wire in_edge = any && dqs_oe && dqs_oe_was && dqs_o != dqs_was && (burst == IN || burst == PREAMBLE_IN && dqs_o);
  wire out_edge = any && re_n != re_n_was && (burst == OUT || burst == PREAMBLE_OUT && re_n);
  wire twice = last_command[at] inside {GET_FEATURES, SET_FEATURES, READ_ID};
  wire beat_in = in_edge && in_at[at] == 7;
  wire beat_out = out_edge && (shows_status[at] ? re_n : out_at[at] == 0);
  wire [63:0] joined = {dq_o, in_bytes[at][63:8]};
  assign step = latches || beat_in || beat_out;
  assign op = latches ? (cle_was ? 2'd0 : 2'd1) : beat_out ? 2'd2 : 2'd3;
  assign value = dq_was;
  assign write_payload = last_command[at] == SET_FEATURES
                         ? {32'd0, joined[55:48], joined[39:32], joined[23:16], joined[7:0]} : joined;

  // -- data out: edges on their way -----------------------------------------------------------
  typedef struct packed {longint due; logic level; logic [7:0] byte_;} edge_t;
  edge_t queue[64];
  logic [5:0] head = 0, tail = 0;
  logic asked = 0, asked_level = 0;      // by an edge of RE_n, a cycle ago
  logic [2:0] asked_at = 0, shown_die = 0;
  longint asked_when = 0, shown_since = LONG_AGO;
  logic [63:0] out_beat = 0;
  logic [7:0] shown = 0;
  logic dqs_level = 0, awake = 0;
  assign drives = awake;
  assign dqs_i = dqs_level;
  assign dq_i = early(now, shown_since, DQSQ, shown_die) || late(now, shown_since, QH, shown_die)
                ? ~shown ^ 8'(now) : shown;

  function automatic longint ps(input time_t which, input logic [2:0] d);
    return longint'(PS[160 * int'(which) + 20 * int'(timing_mode[d][2:0]) +: 20]);
  endfunction
  function automatic bit early(input longint to, input longint from, input time_t which, input logic [2:0] d);
    return (to - from) * 1_000_000 < ps(which, d) * CLOCK_MHZ;
  endfunction
  function automatic bit late(input longint to, input longint from, input time_t which, input logic [2:0] d);
    return (to - from) * 1_000_000 > ps(which, d) * CLOCK_MHZ;
  endfunction

  int own_errors = 0;
  assign errors = 32'(own_errors);
  task automatic broken(input int d, input string rule);
    own_errors = own_errors + 1;
    nand_report(int'(channel), d, now, rule);
    if (STOP_ON_ERROR) $error("nand_nvddr2: channel %0d die %0d cycle %0d: %s", channel, d, now, rule);
  endtask
  task automatic check(input int d, input longint from, input time_t which, input string name);
    if (early(now, from, which, 3'(d)))
      broken(d, $sformatf("%s of NV-DDR2 timing mode %0d: %0d cycles, at least %0d ps", name, timing_mode[d][3:0],
                          now - from, ps(which, 3'(d))));
  endtask

  // -- edges of the control pins --------------------------------------------------------------
  // ALE, CLE or CE_n fall: a burst may begin; DQS must rest.
  task automatic may_begin(input int d);
    if (!ce_n[d] && !cle && !ale) begin
      if (!(dqs_oe && dqs_o && re_n)) broken(d, "DQS or RE_n is not high at the begin of a burst");
      else check(d, dqs_rise, DBS, "tDBS");
    end
  endtask

  // ALE, CLE or CE_n rise: the end of a burst.
  task automatic ends(input int d);
    if (burst == IN || burst == PREAMBLE_IN) begin
      if (dqs_o) broken(d, "data in end with DQS high");
      check(d, dqs_fall, WPST, "tWPST");
      exit_in = now;
    end
    if (burst == OUT || burst == PREAMBLE_OUT) begin
      if (re_n) broken(d, "data out end with RE_n high");
      check(d, re_fall, RPST, "tRPST");
      exit_out = now;
      re_rest = now;
    end
    burst = NONE;
  endtask

  task automatic chips();
    for (int d = 0; d < DIES; d++) begin
      if (ce_n[d] && !ce_n_was[d]) begin
        if (!we_n) broken(d, "CE_n moves while WE_n is low");
        check(d, last_write[d], CH, "tCH");
        ends(d);
        ce_rise[d] = now;
      end
      if (ready[d] && !ready_was[d]) ready_rise[d] = now;
    end
    for (int d = 0; d < DIES; d++)
      if (!ce_n[d] && ce_n_was[d]) begin
        if (!we_n && !we_n_was) broken(d, "CE_n moves while WE_n is low");
        check(d, ce_rise[d], CEH, "tCEH");
        ce_fall[d] = now;
        if ($countones(~ce_n) > 1) broken(d, "two dies are selected");
        may_begin(d);
      end
    if (wp_n && !wp_n_was) wp_rise = now;
  endtask

  task automatic levels(input int d);
    if (cle && !cle_was || ale && !ale_was) ends(d);
    if (cle != cle_was || ale != ale_was) check(d, we_rise, CALH, "tCALH");
    if (cle && !cle_was) cle_rise = now;
    if (ale && !ale_was) ale_rise = now;
    if (!cle && cle_was) begin cle_fall = now; may_begin(d); end
    if (!ale && ale_was) begin ale_fall = now; may_begin(d); end
  endtask

  task automatic writes(input int d);
    if (!we_n && we_n_was) begin
      check(d, we_rise, WH, "tWH");
      check(d, we_fall, WC, "tWC");
      check(d, re_rest, RHW, "tRHW");
      check(d, wp_rise, WW, "tWW");
      if (!re_n) broken(d, "WE_n falls while RE_n is low");
      we_fall = now;
    end
    if (we_n && !we_n_was) begin
      check(d, we_fall, WP, "tWP");
      check(d, ce_fall[d], CS, "tCS");
      if (cle_was) check(d, cle_rise, CALS, "tCALS");
      if (ale_was) check(d, ale_rise, CALS, "tCALS");
      check(d, dq_change, CAS, "tCAS");
      if (cle_was && ale_was) broken(d, "CLE and ALE are both high");
      if (!cle_was && !ale_was) broken(d, "WE_n rises with neither CLE nor ALE");
      if (!oe_was) broken(d, "nobody drives DQ");
      if (!wp_n) broken(d, "WP_n is low");
      we_rise = now;
      last_write[d] = now;
      if (ale_was) address_rise[d] = now;
    end
  endtask

  // -- DQS and data in ------------------------------------------------------------------------
  task automatic strobes(input int d);
    if (dqs_oe && dqs_o != dqs_was || dqs_oe != dqs_oe_was) begin
      check(d, exit_in, WPSTH, "tWPSTH");
      if (!dqs_o && dqs_was && burst == NONE && any && !cle && !ale && re_n) begin
        check(d, ce_fall[d], CDQSS, "tCDQSS");
        check(d, cle_fall, CDQSS, "tCDQSS");
        check(d, ale_fall, CDQSS, "tCDQSS");
        check(d, address_rise[d], ADL, "tADL");
        burst = PREAMBLE_IN;
        first_in = 1;
      end else if (burst == IN || burst == PREAMBLE_IN) begin
        if (dqs_o) begin
          if (first_in) check(d, dqs_fall, WPRE, "tWPRE");
          else begin
            check(d, dqs_fall, DQSL, "tDQSL");
            check(d, dqs_rise, DSC, "tDSC");
          end
        end else begin
          check(d, dqs_rise, DQSH, "tDQSH");
          if (!first_in) check(d, dqs_fall, DSC, "tDSC");
          first_in = 0;
        end
        check(d, dq_change, DS, "tDS");
        if (!dq_oe) broken(d, "nobody drives DQ");
        data_edge = now;
        burst = IN;
      end
      if (dqs_o) dqs_rise = now;
      else dqs_fall = now;
    end
    if (burst == IN && dqs_oe && in_edge) begin
      in_bytes[at] <= joined;
      in_at[at] <= beat_in ? 0 : in_at[at] + 1;
      if (in_at[at][0] && last_command[at] == SET_FEATURES && dq_o != in_bytes[at][63:56])
        broken(d, "a byte of a feature is not sent twice");
    end
    if (dqs_oe && awake) begin
      broken(d, "DQS driven from both sides (tCHZ)");
      awake = 0;
      burst = NONE;
    end
  endtask

  task automatic data_lines(input int d);
    if (dq_oe != oe_was || dq_oe && dq_o != dq_was) begin
      check(d, we_rise, CAH, "tCAH");
      check(d, data_edge, DH, "tDH");
      dq_change = now;
    end
    if (dq_oe && awake) begin
      broken(d, "DQ driven from both sides (tCHZ)");
      awake = 0;
      burst = NONE;
    end
  endtask

  // -- RE_n and data out ----------------------------------------------------------------------
  task automatic reads(input int d);
    if (re_n != re_n_was) begin
      if (re_n && exit_out == re_rest && burst == NONE) begin
        check(d, exit_out, RPSTH, "tRPSTH");
        re_rest = now;
      end else if (any && !re_n && burst == NONE) begin
        check(d, last_write[d], WHR, "tWHR");
        check(d, ce_fall[d], CR, "tCR");
        check(d, cle_fall, CLR, "tCLR");
        check(d, ale_fall, AR, "tAR");
        if (ready[d]) check(d, ready_rise[d], RR, "tRR");
        if (cle || ale) broken(d, "RE_n falls while CLE or ALE is high");
        if (awake && shown_die != 3'(d)) broken(d, "two dies drive DQ");
        burst = PREAMBLE_OUT;
        asleep_from = now;
        first_out = 1;
      end else if (burst == PREAMBLE_OUT || burst == OUT) begin
        if (re_n) begin
          if (first_out) check(d, re_fall, RPRE, "tRPRE");
          else begin
            check(d, re_fall, RP, "tRP");
            check(d, re_rise, RC, "tRC");
          end
        end else begin
          check(d, re_rise, REH, "tREH");
          if (!first_out) check(d, re_fall, RC, "tRC");
          first_out = 0;
        end
        burst = OUT;
      end
      if (re_n) re_rise = now;
      else re_fall = now;
    end
  endtask

  task automatic answer(input int d);
    // What an edge of RE_n asked for in the cycle before.
    if (asked) begin
      if (read_valid) out_beat = read_payload;
      queue[tail] = '{asked_when + longint'(dqsre_ps) * CLOCK_MHZ / 1_000_000, asked_level,
                      out_beat[8 * asked_at +: 8]};
      tail = tail + 1;
    end
    asked = out_edge;
    if (out_edge) begin
      asked_level = re_n;
      asked_when = now;
      asked_at = shows_status[d] ? 0 : twice ? out_at[d][3:1] : out_at[d][2:0];
      if (!shows_status[d]) out_at[d] <= twice ? out_at[d] + 1 : (out_at[d] + 1) & 4'd7;
    end
    if ((burst == PREAMBLE_OUT || burst == OUT) && !awake && !early(now, asleep_from, DQSD, 3'(d))) begin
      awake = 1;
      dqs_level = 0;
      shown_die = 3'(d);
    end
    if (head != tail && now >= queue[head].due) begin
      dqs_level = queue[head].level;
      shown = queue[head].byte_;
      shown_since = now;
      head = head + 1;
    end
    if (awake && ce_n[shown_die] && !early(now, ce_rise[shown_die], CHZ, shown_die)) begin
      awake = 0;
      head = tail;
    end
  endtask

  task automatic latched(input int d);
    if (latches) begin
      if (cle_was) last_command[d] <= dq_was;
      if (in_at[d] != 0 && cle_was && dq_was inside {8'h10, 8'h11, 8'h15})
        broken(d, "data in ended inside a beat of 8 bytes, a limit of this model");
      in_at[d] <= 0;
      // After 70h and 78h, 00h goes on where the data stood.
      if (cle_was && !(dq_was inside {8'h00, 8'h70, 8'h78})) out_at[d] <= 0;
    end
  endtask

  task automatic power_on();
    for (int d = 0; d < DIES; d++) begin
      last_command[d] <= 0;
      in_at[d] <= 0;
      out_at[d] <= 0;
    end
    burst = NONE;
    awake = 0;
    asked = 0;
    head = tail;
  endtask

  always @(posedge clk) begin
    now = now + 1;
    if (rst) begin
      power_on();
    end else begin
      chips();
      if (had || any) begin
        writes(int'(had ? former : selected));
        levels(int'(any ? selected : former));
      end
      reads(int'(any ? selected : shown_die));
      answer(int'(any ? selected : shown_die));
      data_lines(int'(any ? selected : former));
      strobes(int'(any ? selected : former));
      latched(int'(former));
    end
    ce_n_was <= ce_n;
    ready_was <= ready;
    cle_was <= cle;
    ale_was <= ale;
    we_n_was <= we_n;
    re_n_was <= re_n;
    wp_n_was <= wp_n;
    dqs_was <= dqs_o;
    dqs_oe_was <= dqs_oe;
    oe_was <= dq_oe;
    dq_was <= dq_o;
  end
endmodule
