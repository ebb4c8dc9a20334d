# SPDX-License-Identifier: Apache-2.0
"""The KV engine: everything between the queues, the flash channels and the attention cores."""

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import (
    CHANNEL_EVENT,
    COMMAND,
    COMPLETION,
    MemoryReadPort,
    MemoryWritePort,
    channel_request,
    merge_request,
    query_beat,
    read_fault,
    result_beat,
    slot_beat,
    stripe_finish,
)

HOST_READS = 2
"""Rows of writes; query rows."""
HOST_WRITES = 1
"""Attention output."""
DRAM_READS = 5
"""Tail rows; map of attentions; of writes; of flushes; of frees."""
DRAM_WRITES = 3
"""Rows of writes; map of writes; of flushes."""


class KvEngine(wiring.Component):
    """Executes commands: tables, write path, flush to flash, attention sequencing, free.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    commands, completions : towards the queues; completions may be out of order
    host_read, host_write, dram_read, dram_write : arrays of memory ports, one per inner user (their numbers are
        ``HOST_READS`` and so on); the engine's top arbitrates them. The users do not wait for each other, so any fair order does.
    channels : stripe operations per flash channel (READ, PROGRAM, ERASE)
    events : ends of PROGRAM and ERASE per channel, always taken within a few cycles
    faults : withheld slots per channel
    finish : finished stripes, channels 0 to C - 1, then the tail core
    tail : slots for the tail core, read from stripe buffers (die 0)
    open : one pulse per head slot before its query rows come: its partials start anew
    queries : query rows; sent for every pass of a head before any stripe of that head is asked for
    scale2 : fp32 base-2 softmax scale, constant from ``open`` of a head's first pass to its last query beat
    not_finite : a query row of a head slot held NaN or Inf
    merge, results : one request per pass when all stripes of a head are finished, and its output
    count_commands, count_errors, count_tail_beats : one-cycle event pulses
    rows_wanted : added to Counter.ROWS_WANTED each cycle (0 when nothing happened)
    ready : tables are initialised; commands wait until then

    Latency: an attention asks for its first stripe about 60 cycles after its command, plus one round trip of host memory for
    the queries and one of DRAM for the map. Throughput: rows are copied at one 32-byte beat per cycle; map entries are walked at four
    per DRAM round trip. Back-pressure: every stream may stall for any time.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "commands": In(stream.Signature(COMMAND)),
            "completions": Out(stream.Signature(COMPLETION)),
            "host_read": Out(MemoryReadPort()).array(HOST_READS),
            "host_write": Out(MemoryWritePort()).array(HOST_WRITES),
            "dram_read": Out(MemoryReadPort()).array(DRAM_READS),
            "dram_write": Out(MemoryWritePort()).array(DRAM_WRITES),
            "channels": Out(stream.Signature(channel_request(config))).array(config.channels),
            "events": In(stream.Signature(CHANNEL_EVENT)).array(config.channels),
            "faults": In(read_fault(config)).array(config.channels),
            "finish": In(stripe_finish(config)).array(config.cores),
            "tail": Out(stream.Signature(slot_beat(config))),
            "open": Out(pulse),
            "queries": Out(stream.Signature(query_beat(config))),
            "scale2": Out(32),
            "not_finite": In(pulse),
            "merge": Out(stream.Signature(merge_request(config))),
            "results": In(stream.Signature(result_beat(config))),
            "count_commands": Out(1),
            "count_errors": Out(1),
            "count_tail_beats": Out(1),
            "rows_wanted": Out(19),
            "ready": Out(1),
        })
