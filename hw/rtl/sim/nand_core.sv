// SPDX-License-Identifier: Apache-2.0
// The dies of one channel's NAND package, behind a front end: DIES dies (one CE_n each) of PLANES planes.
//
// Front ends: `nand_package` (wide PHY), `nand_pins` (ONFI pins). In a cycle with `step` the die `die` takes one
// operation: op 0 command `value`, 1 address `value`, 2 data out (8 bytes, in `read_payload` one cycle later), 3 data
// in (8 bytes, `write_payload`). All times are counted in cycles of `clk`; there are no delays. Sequences, address
// layout, rules and faults: docs/blocks/nand_model.md. A broken rule is reported to the store (text: channel, die,
// cycle, rule, command), counted in `errors`, and stops the simulation when STOP_ON_ERROR is set.
module nand_core #(
    parameter int DIES = 2,
    parameter int PLANES = 2,
    parameter int BLOCKS = 16,
    parameter int PAGES = 8,
    parameter int PAGE_BYTES = 4096,
    parameter int SPARE_BYTES = 256,
    parameter int CLOCK_MHZ = 200,
    parameter int BEAT_CYCLES_X1000 = 1000,
    parameter int T_R = 600,
    parameter int T_PROG = 2000,
    parameter int T_BERS = 4000,
    parameter int T_RCBSY = 100,
    parameter int T_PCBSY = 100,
    parameter int T_DBSY = 100,
    parameter int T_CCS = 100,
    parameter int T_WB = 20,
    parameter int T_ADL = 100,
    parameter int T_WHR = 20,
    parameter int T_RST = 100,
    parameter int T_FEAT = 200,
    parameter bit STOP_ON_ERROR = 0
) (
    input  logic            clk,
    input  logic            rst,
    input  logic [7:0]      channel,
    input  logic            step,
    input  logic [1:0]      op,
    input  logic [2:0]      die,
    input  logic [7:0]      value,
    input  logic [63:0]     write_payload,
    output logic            read_valid,
    output logic [63:0]     read_payload,
    output logic [DIES-1:0] ready,
    output logic [31:0]     errors,
    output logic [DIES-1:0][7:0] timing_mode,   // P1 of feature 01h: data interface and timing mode in use
    output logic [DIES-1:0] shows_status        // data out repeats the status
);
  import "DPI-C" function int nand_open(int channel, int dies, int planes, int blocks, int pages,
                                        int page_bytes, int spare_bytes);
  import "DPI-C" function void nand_report(int channel, int die, longint cycle, string text);
  import "DPI-C" function longint nand_read_beat(int channel, int die, int plane, int block, int page, int column);
  import "DPI-C" function void nand_load_start(int channel, int die, int plane);
  import "DPI-C" function void nand_load_beat(int channel, int die, int plane, int column, longint beat);
  import "DPI-C" function int nand_program(int channel, int die, int plane, int block, int page);
  import "DPI-C" function int nand_erase(int channel, int die, int plane, int block);
  import "DPI-C" function void nand_interrupt(int channel, int die, int plane, int block, int page, int what);
  import "DPI-C" function int nand_stuck(int channel, int die);
  import "DPI-C" function longint nand_parameter_beat(int channel, int die, int offset, int t_prog, int t_bers, int t_r,
                                                       int t_ccs);
  import "DPI-C" function int nand_keeps_features(int channel, int die);
  import "DPI-C" function int nand_timing_mode_known(int channel, int die, int mode);

  localparam int TOTAL = PAGE_BYTES + SPARE_BYTES;
  localparam int PAGE_BITS = $clog2(PAGES);
  localparam int PLANE_BITS = $clog2(PLANES);
  localparam longint NEVER = 64'h7FFF_FFFF_FFFF_FFFF;
  localparam logic [1:0] OP_COMMAND = 0, OP_ADDRESS = 1, OP_DATA_OUT = 2;
  localparam logic [7:0] TIMING_MODE = 8'h01;  // feature

  wire is_data = op[1];

  // -- state of the dies ----------------------------------------------------------------------
  typedef enum logic [2:0] {OUT_NONE, OUT_DATA, OUT_STATUS, OUT_ID, OUT_PARAMETERS, OUT_FEATURE} out_t;
  typedef enum logic [1:0] {ARRAY_NONE, ARRAY_READ, ARRAY_PROGRAM, ARRAY_ERASE} array_t;

  longint     now = 0;
  longint     last_beat_x1000 = 0;
  bit         known [DIES];          // FFh was seen since power-on
  longint     low_from [DIES];       // R/B_n falls up to tWB after the command
  longint     busy_until [DIES];
  longint     array_until [DIES];    // busy behind the cache register (ARDY)
  array_t     array_job [DIES];
  logic [7:0] command [DIES];        // first command of an open sequence, FFh when none is open
  int         wanted [DIES];         // address cycles still to come
  int         got [DIES];
  logic [7:0] cycles_in [DIES][5];
  int         row_page [DIES], row_block [DIES], row_plane [DIES], column [DIES];
  longint     column_ok [DIES];      // data may move from then on (tCCS, tADL)
  out_t       out [DIES];
  longint     status_ok [DIES];
  int         out_plane [DIES], out_column [DIES], in_column [DIES];
  logic [7:0] status_plane [DIES];   // planes whose FAIL bits the status shows
  bit         loading [DIES];        // data input of 80h is open
  bit         cache_valid [DIES][PLANES], page_valid [DIES][PLANES];
  int         cache_page [DIES][PLANES], cache_block [DIES][PLANES];
  int         page_page [DIES][PLANES], page_block [DIES][PLANES];
  logic [7:0] queued [DIES];         // planes collected by 32h, 11h, D1h
  logic [7:0] queued_by [DIES];      // that command, 0 when none
  int         queued_page [DIES];
  int         queued_block [DIES][PLANES];
  bit         fail [DIES][PLANES], fail_cache [DIES][PLANES];
  bit         unread [DIES], unread_cache [DIES];  // a failure that no status has shown yet
  // The program or erase confirmed last [1] and, behind a cache program, the one before [0].
  longint     job_from [DIES][2], job_until [DIES][2];
  logic [7:0] job_planes [DIES][2];
  int         job_page [DIES][2], job_block [DIES][2][PLANES];
  logic [31:0] feature [DIES][256];
  logic [7:0] feature_at [DIES];
  int         id_at [DIES], id_from [DIES];

  initial begin
    errors = 0;
    if (DIES > 8 || PLANES > 4 || PAGE_BITS + PLANE_BITS + $clog2(BLOCKS) > 24)
      $fatal(1, "nand_package: DIES at most 8, PLANES at most 4, row address at most 24 bits");
    power_on();
  end

  task automatic power_on();
    for (int d = 0; d < DIES; d++) begin
      known[d] = 0;
      interrupt(d);
      quiet(d);
      for (int f = 0; f < 256; f++) feature[d][f] = 0;
    end
  endtask

  task automatic quiet(input int d);
    low_from[d] = 0;
    busy_until[d] = 0;
    array_until[d] = 0;
    array_job[d] = ARRAY_NONE;
    command[d] = 8'hFF;
    wanted[d] = 0;
    out[d] = OUT_NONE;
    out_plane[d] = 0;
    out_column[d] = 0;
    loading[d] = 0;
    queued[d] = 0;
    queued_by[d] = 0;
    unread[d] = 0;
    unread_cache[d] = 0;
    for (int j = 0; j < 2; j++) job_until[d][j] = 0;
    status_plane[d] = '1;
    column_ok[d] = 0;
    for (int p = 0; p < PLANES; p++) begin
      cache_valid[d][p] = 0;
      page_valid[d][p] = 0;
      fail[d][p] = 0;
      fail_cache[d][p] = 0;
    end
  endtask

  // A reset or power-on during a program or erase leaves half a page, or a block to be erased again; a program
  // that waited in the cache registers leaves nothing.
  task automatic interrupt(input int d);
    for (int j = 0; j < 2; j++)
      if (now < job_until[d][j])
        for (int p = 0; p < PLANES; p++)
          if (job_planes[d][j][p])
            nand_interrupt(int'(channel), d, p, job_block[d][j][p], job_page[d][j],
                           array_job[d] == ARRAY_ERASE ? 1 : now < job_from[d][j] ? 2 : 0);
  endtask

  task automatic note_job(input int d, input longint from, input longint until_);
    job_from[d][0] = job_from[d][1];
    job_until[d][0] = job_until[d][1];
    job_planes[d][0] = job_planes[d][1];
    job_page[d][0] = job_page[d][1];
    job_block[d][0] = job_block[d][1];
    job_from[d][1] = from;
    job_until[d][1] = until_;
    job_planes[d][1] = queued[d];
    job_page[d][1] = queued_page[d];
    job_block[d][1] = queued_block[d];
  endtask

  task automatic broken(input int d, input logic [7:0] code, input string rule);
    string kind = "data";
    if (op == OP_COMMAND) kind = "command";
    if (op == OP_ADDRESS) kind = "address";
    errors <= errors + 1;
    nand_report(int'(channel), d, now, $sformatf("%s (%s %02xh, open sequence %02xh)", rule, kind, code,
                                                 command[d]));
    if (STOP_ON_ERROR) $error("nand_package: channel %0d die %0d cycle %0d: %s", channel, d, now, rule);
  endtask

  // R/B_n low: from at most tWB after the command until `until`.
  task automatic occupy(input int d, input longint until_, input longint array, input array_t job);
    low_from[d] = now + T_WB - 1;
    busy_until[d] = until_;
    array_until[d] = array;
    array_job[d] = job;
    if (nand_stuck(int'(channel), d) != 0) begin
      busy_until[d] = NEVER;
      array_until[d] = NEVER;
    end
  endtask

  function automatic longint later(input longint a, input longint b);
    return a > b ? a : b;
  endfunction

  // -- commands -------------------------------------------------------------------------------
  task automatic open_sequence(input int d, input logic [7:0] code, input int address_cycles);
    if (wanted[d] != 0) broken(d, code, "a command came before all address cycles");
    command[d] = code;
    wanted[d] = address_cycles;
    got[d] = 0;
  endtask

  task automatic take_command(input int d, input logic [7:0] code);
    longint from;
    if (!known[d] && !(code inside {8'hFF, 8'hFC})) broken(d, code, "the first command after power-on must be FFh");
    if (now < busy_until[d] && !(code inside {8'hFF, 8'hFC, 8'h70, 8'h78})) broken(d, code, "command while busy");
    if (now < array_until[d] && now >= busy_until[d]) begin
      if (array_job[d] == ARRAY_READ && code inside {8'h30, 8'h60, 8'h80, 8'h90, 8'hEC, 8'hEE, 8'hEF})
        broken(d, code, "the array still senses for a cache read");
      if (array_job[d] == ARRAY_PROGRAM && !(code inside {8'h80, 8'h10, 8'h11, 8'h15, 8'h70, 8'h78, 8'hFC, 8'hFF}))
        broken(d, code, "the array still programs for a cache program");
    end
    if (queued_by[d] == 8'h32 && code inside {8'h80, 8'h60, 8'h3F} ||
        queued_by[d] == 8'h11 && code inside {8'h00, 8'h05, 8'h06, 8'h60, 8'h31, 8'h3F} ||
        queued_by[d] == 8'hD1 && code inside {8'h00, 8'h05, 8'h06, 8'h80, 8'h31, 8'h3F})
      broken(d, code, "a multi-plane sequence is open");
    case (code)
      8'h00: begin
        out[d] = OUT_DATA;  // after a status: back to data; with an address: a read follows
        open_sequence(d, code, 0);
      end
      8'h05: open_sequence(d, code, 2);
      8'h06: open_sequence(d, code, 5);
      8'h60, 8'h78: open_sequence(d, code, 3);
      8'h90, 8'hEC, 8'hEE, 8'hEF: open_sequence(d, code, 1);
      8'h80: open_sequence(d, code, 5);
      8'h30, 8'h31, 8'h32: read(d, code);
      8'h3F: begin
        if (array_job[d] != ARRAY_READ || command[d] != 8'hFF)
          broken(d, code, "3Fh without a cache read");
        from = later(now + T_WB, array_until[d]);
        page_to_cache(d);
        for (int p = 0; p < PLANES; p++) page_valid[d][p] = 0;
        occupy(d, from + T_RCBSY, from + T_RCBSY, ARRAY_NONE);
      end
      8'hE0: begin
        if (!(command[d] inside {8'h05, 8'h06}) || got[d] != (command[d] == 8'h05 ? 2 : 5))
          broken(d, code, "E0h without 05h A2 or 06h A5");
        if (command[d] == 8'h06) begin
          if (!cache_valid[d][row_plane[d]] || cache_page[d][row_plane[d]] != row_page[d] ||
              cache_block[d][row_plane[d]] != row_block[d])
            broken(d, code, "06h names a row that is not in the cache register");
          out_plane[d] = row_plane[d];
        end
        out_column[d] = column[d];
        out[d] = OUT_DATA;
        column_ok[d] = now + T_CCS;
        command[d] = 8'hFF;
      end
      8'h10, 8'h11, 8'h15: program_(d, code);
      8'hD0, 8'hD1: erase(d, code);
      8'h70: begin
        out[d] = OUT_STATUS;
        status_plane[d] = '1;
        status_ok[d] = now + T_WHR;
      end
      8'hFF, 8'hFC: begin
        known[d] = 1;
        if (timing_mode[d][5:4] == 0) begin
          if (code == 8'hFC) broken(d, code, "FCh in SDR");
        end else if (code == 8'hFF) begin
          feature[d][TIMING_MODE] = 0;  // back to SDR; within SDR, and with FCh, the mode stays
        end
        interrupt(d);
        quiet(d);
        occupy(d, now + T_WB + T_RST, now, ARRAY_NONE);
      end
      default: broken(d, code, "unknown command");
    endcase
  endtask

  task automatic page_to_cache(input int d);
    for (int p = 0; p < PLANES; p++) begin
      cache_valid[d][p] = page_valid[d][p];
      cache_page[d][p] = page_page[d][p];
      cache_block[d][p] = page_block[d][p];
    end
  endtask

  task automatic collect(input int d, input logic [7:0] code, input logic [7:0] by, input bit same_page);
    if (queued[d][row_plane[d]]) broken(d, code, "a plane twice in a multi-plane sequence");
    if (same_page && queued_by[d] != 0 && queued_page[d] != row_page[d])
      broken(d, code, "pages of a multi-plane sequence differ");
    queued[d][row_plane[d]] = 1;
    queued_by[d] = by;
    queued_page[d] = row_page[d];
    queued_block[d][row_plane[d]] = row_block[d];
  endtask

  task automatic busy_between_planes(input int d);
    longint until_ = now + later(T_DBSY, T_WB + 1);
    occupy(d, until_, later(until_, array_until[d]), array_job[d]);
    command[d] = 8'hFF;
  endtask

  task automatic read(input int d, input logic [7:0] code);
    longint from;
    if (command[d] != 8'h00 || got[d] != 5) broken(d, code, "30h, 31h or 32h without 00h A5");
    collect(d, code, 8'h32, 1);
    if (code == 8'h32) begin
      busy_between_planes(d);
    end else begin
      if (code == 8'h31) begin
        bit any = 0;
        for (int p = 0; p < PLANES; p++) any |= page_valid[d][p];
        if (!any) broken(d, code, "31h without a sensed page");
        from = later(now + T_WB, array_until[d]);
        page_to_cache(d);
        occupy(d, from + T_RCBSY, from + T_RCBSY + T_R, ARRAY_READ);
      end else begin
        occupy(d, now + T_WB + T_R, now + T_WB + T_R, ARRAY_NONE);
      end
      for (int p = 0; p < PLANES; p++) begin
        page_valid[d][p] = queued[d][p];
        page_page[d][p] = queued_page[d];
        page_block[d][p] = queued_block[d][p];
      end
      if (code == 8'h30) begin
        page_to_cache(d);
        out[d] = OUT_DATA;
        out_plane[d] = row_plane[d];
        out_column[d] = column[d];
        column_ok[d] = now;
      end else begin
        out[d] = OUT_NONE;
      end
      queued[d] = 0;
      queued_by[d] = 0;
      command[d] = 8'hFF;
    end
  endtask

  task automatic program_(input int d, input logic [7:0] code);
    longint from;
    if (command[d] != 8'h80 || !loading[d]) broken(d, code, "10h, 11h or 15h without 80h A5 and data");
    loading[d] = 0;
    collect(d, code, 8'h11, 1);
    if (code == 8'h11) begin
      busy_between_planes(d);
    end else begin
      if (unread_cache[d]) broken(d, code, "the failure of an earlier program was never read");
      unread_cache[d] = unread[d];
      unread[d] = 0;
      for (int p = 0; p < PLANES; p++) begin
        fail_cache[d][p] = fail[d][p];
        fail[d][p] = 0;
        if (queued[d][p]) begin
          case (nand_program(int'(channel), d, p, queued_block[d][p], queued_page[d]))
            0: ;
            1: begin
              fail[d][p] = 1;
              unread[d] = 1;
            end
            2: broken(d, code, "page programmed twice or out of order since the erase");
            default: broken(d, code, "program of a block whose erase failed or was cut short");
          endcase
        end
      end
      from = later(now + T_WB, array_until[d]);
      if (code == 8'h15) from += T_PCBSY;
      occupy(d, code == 8'h15 ? from : from + T_PROG, from + T_PROG, ARRAY_PROGRAM);
      note_job(d, from, from + T_PROG);
      queued[d] = 0;
      queued_by[d] = 0;
      command[d] = 8'hFF;
    end
  endtask

  task automatic erase(input int d, input logic [7:0] code);
    if (command[d] != 8'h60 || got[d] != 3) broken(d, code, "D0h or D1h without 60h A3");
    collect(d, code, 8'hD1, 0);
    if (code == 8'hD1) begin
      busy_between_planes(d);
    end else begin
      for (int p = 0; p < PLANES; p++) begin
        fail_cache[d][p] = 0;
        unread[d] = 0;
        unread_cache[d] = 0;
        fail[d][p] = queued[d][p] && nand_erase(int'(channel), d, p, queued_block[d][p]) != 0;
        cache_valid[d][p] = 0;
        page_valid[d][p] = 0;
      end
      occupy(d, now + T_WB + T_BERS, now + T_WB + T_BERS, ARRAY_ERASE);
      note_job(d, now, now + T_WB + T_BERS);
      queued[d] = 0;
      queued_by[d] = 0;
      command[d] = 8'hFF;
    end
  endtask

  // -- address cycles -------------------------------------------------------------------------
  task automatic take_address(input int d, input logic [7:0] code);
    if (command[d] == 8'h00 && wanted[d] == 0 && got[d] == 0) wanted[d] = 5;
    if (wanted[d] == 0) begin
      broken(d, code, "an address cycle that no command asked for");
    end else begin
      cycles_in[d][got[d]] = code;
      got[d]++;
      wanted[d]--;
      if (wanted[d] == 0) address_complete(d, code);
    end
  endtask

  task automatic address_complete(input int d, input logic [7:0] code);
    logic [23:0] row;
    if (command[d] inside {8'h00, 8'h05, 8'h06, 8'h80}) begin
      column[d] = int'({cycles_in[d][1], cycles_in[d][0]});
      if (column[d] + 8 > TOTAL) broken(d, code, "column behind the end of the page");
    end
    if (command[d] inside {8'h00, 8'h06, 8'h80, 8'h60, 8'h78}) begin
      row = got[d] == 5 ? {cycles_in[d][4], cycles_in[d][3], cycles_in[d][2]}
                        : {cycles_in[d][2], cycles_in[d][1], cycles_in[d][0]};
      row_page[d] = int'(row) & ((1 << PAGE_BITS) - 1);
      row_plane[d] = int'(row >> PAGE_BITS) & ((1 << PLANE_BITS) - 1);
      row_block[d] = int'(row >> (PAGE_BITS + PLANE_BITS));
      if (row_page[d] >= PAGES || row_block[d] >= BLOCKS) begin
        broken(d, code, "row address outside the array");
        row_page[d] = 0;
        row_block[d] = 0;
      end
    end
    case (command[d])
      8'h80: begin
        // The cache registers serve as program buffer: what a read left in them is gone.
        for (int p = 0; p < PLANES; p++) begin
          cache_valid[d][p] = 0;
          page_valid[d][p] = 0;
        end
        nand_load_start(int'(channel), d, row_plane[d]);
        in_column[d] = column[d];
        loading[d] = 1;
        column_ok[d] = now + T_ADL;
      end
      8'h78: begin
        out[d] = OUT_STATUS;
        status_plane[d] = 8'd1 << row_plane[d];
        status_ok[d] = now + T_WHR;
        command[d] = 8'hFF;
      end
      8'h90: begin
        out[d] = OUT_ID;
        id_from[d] = int'(code);
        id_at[d] = 0;
        status_ok[d] = now + T_WHR;
        command[d] = 8'hFF;
      end
      8'hEC: begin
        if (code != 0) broken(d, code, "ECh wants the address 00h");
        out[d] = OUT_PARAMETERS;
        id_at[d] = 0;
        command[d] = 8'hFF;
        occupy(d, now + T_WB + T_R, now, ARRAY_NONE);
      end
      8'hEE: begin
        out[d] = OUT_FEATURE;
        feature_at[d] = code;
        command[d] = 8'hFF;
        occupy(d, now + T_WB + T_FEAT, now, ARRAY_NONE);
      end
      8'hEF: begin
        feature_at[d] = code;
        column_ok[d] = now + T_ADL;
      end
      default: ;
    endcase
  endtask

  // -- data -----------------------------------------------------------------------------------
  // FAIL means nothing while the array programs, FAILC nothing while R/B_n is low: they lie then, so that whoever
  // believes them is found out.
  function automatic logic [7:0] status(input int d);
    bit failed = 0, failed_cache = 0;
    bit ready_ = now >= busy_until[d], rest = now >= later(busy_until[d], array_until[d]);
    for (int p = 0; p < PLANES; p++)
      if (status_plane[d][p]) begin
        failed |= fail[d][p];
        failed_cache |= fail_cache[d][p];
      end
    if (array_job[d] == ARRAY_PROGRAM) begin
      if (!rest) failed = !failed;
      if (!ready_) failed_cache = !failed_cache;
      if (rest) unread[d] = 0;
      if (ready_) unread_cache[d] = 0;
    end
    return {1'b1, ready_, rest, 3'b0, failed_cache, failed};
  endfunction

  task automatic data_out(input int d);
    longint beat = -1;
    if (now < busy_until[d] && out[d] != OUT_STATUS) broken(d, 0, "data out while busy");
    case (out[d])
      OUT_DATA: begin
        if (now < column_ok[d]) broken(d, 0, "data out before tCCS");
        if (out_column[d] + 8 > TOTAL) broken(d, 0, "data out behind the end of the page");
        else if (!cache_valid[d][out_plane[d]]) broken(d, 0, "data out of an empty cache register");
        else beat = nand_read_beat(int'(channel), d, out_plane[d], cache_block[d][out_plane[d]],
                                   cache_page[d][out_plane[d]], out_column[d]);
        out_column[d] += 8;
      end
      OUT_STATUS: begin
        if (now < status_ok[d]) broken(d, 0, "status before tWB");
        beat = longint'({8{status(d)}});
      end
      OUT_ID: begin
        if (now < status_ok[d]) broken(d, 0, "data out before tWB");
        beat = id_at[d] != 0 ? 0 : id_from[d] == 8'h20 ? 64'h49_46_4E_4F : 64'h00_00_00_00_00_4D_53_49;
        id_at[d]++;
      end
      OUT_PARAMETERS: begin
        beat = nand_parameter_beat(int'(channel), d, id_at[d], T_PROG / CLOCK_MHZ, T_BERS / CLOCK_MHZ,
                                   T_R / CLOCK_MHZ, T_CCS * 1000 / CLOCK_MHZ);
        id_at[d] += 8;
      end
      OUT_FEATURE: beat = longint'(feature[d][feature_at[d]]);
      default: broken(d, 0, "data out without anything to read");
    endcase
    read_payload <= beat;
  endtask

  task automatic data_in(input int d);
    if (now < busy_until[d]) broken(d, 0, "data in while busy");
    if (command[d] == 8'hEF && got[d] == 1) begin
      if (now < column_ok[d]) broken(d, 0, "data in before tADL");
      if (feature_at[d] == TIMING_MODE && nand_timing_mode_known(int'(channel), d, int'(write_payload[7:0])) == 0)
        broken(d, write_payload[7:0], "a timing mode that the parameter page does not list");
      if (nand_keeps_features(int'(channel), d) == 0) feature[d][feature_at[d]] = write_payload[31:0];
      command[d] = 8'hFF;
      occupy(d, now + T_WB + T_FEAT, now, ARRAY_NONE);
    end else if (loading[d]) begin
      if (now < column_ok[d]) broken(d, 0, "data in before tADL");
      if (in_column[d] + 8 > TOTAL) broken(d, 0, "data in behind the end of the page");
      else nand_load_beat(int'(channel), d, row_plane[d], in_column[d], longint'(write_payload));
      in_column[d] += 8;
    end else begin
      broken(d, 0, "data in without 80h A5 or EFh A1");
    end
  endtask

  // -- one step per cycle at most -------------------------------------------------------------
  bit opened = 0;
  always @(posedge clk) begin
    now = now + 1;
    read_valid <= 0;
    if (!opened) begin
      opened = 1;
      if (nand_open(int'(channel), DIES, PLANES, BLOCKS, PAGES, PAGE_BYTES, SPARE_BYTES) == 0)
        $fatal(1, "nand_package: the attached store has another geometry than channel %0d", channel);
    end
    if (rst) begin
      power_on();
    end else if (step) begin
      if (int'(die) >= DIES) begin
        broken(int'(die), value, "no such die");
      end else begin
        case (op)
          OP_COMMAND: take_command(int'(die), value);
          OP_ADDRESS: take_address(int'(die), value);
          OP_DATA_OUT: begin
            data_out(int'(die));
            read_valid <= 1;
          end
          default: data_in(int'(die));
        endcase
        if (is_data) begin
          if (now * 1000 < last_beat_x1000) broken(int'(die), 0, "beats faster than the bus");
          last_beat_x1000 = later(last_beat_x1000, now * 1000 - 999) + BEAT_CYCLES_X1000;
        end
      end
    end
    for (int d = 0; d < DIES; d++) begin
      if (busy_until[d] == NEVER && nand_stuck(int'(channel), d) == 0) begin  // a stuck die was let go
        busy_until[d] = now;
        array_until[d] = now;
      end
      ready[d] <= now < low_from[d] || now >= busy_until[d];
      if (now >= busy_until[d]) timing_mode[d] <= feature[d][TIMING_MODE][7:0];
      shows_status[d] <= out[d] == OUT_STATUS;
    end
  end
endmodule
