# SPDX-License-Identifier: Apache-2.0
"""Admin commands: caches, sequences, policies, windows, format, tables, raw bytes."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import AdminOpcode, Dtype, PolicyKind, Status, Table
from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.layout import HEAD_DIMS, SKETCH_BITS, SKETCH_DIMS
from instinfer.abi.selection import GROUP_LOG2_MAX
from instinfer.abi.sparf import DIMS_MAX, SINKS_MAX

from ..selection.ports import GROUP_LOG2_BITS, KEEP_BITS
from ..signatures import COMMAND, COMPLETION
from .access import access, read, write
from .decode import admin_entry
from .dimplaces import DimPlaces
from .peek import PEEK, PEEK_BITS
from .ports import (
    DRAM_BITS,
    STRIPE_BITS,
    Geometry,
    TableOp,
    TablePort,
    map_aligned,
    rows_log2,
    sum_bytes,
)
from .sketchplace import SketchPlace, vector_size

QUERIES_MAX = 8
"""Query heads per KV head that a cache may have."""
MAP_ALIGN_BITS = 5
WINDOW_ALIGN_BITS = 12


class AdminCommands(wiring.Component):
    """Executes admin commands, except those that create queues, which never get here.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    commands : one at a time, taken when completed
    completions : one per command
    tables : access to the tables
    quiet : no attention, program, free or sync is under way (FORMAT and PAGE_PEEK wait for it)
    freeing, freed_sequence : a sequence that is being freed cannot be created

    peeks, peeked, peek_failed : a `PagePeek`

    Latency: about 5 cycles per table access; KV_CONFIG looks at every sequence. Back-pressure: completions
    may wait.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "commands": In(stream.Signature(COMMAND)),
            "completions": Out(stream.Signature(COMPLETION)),
            "tables": Out(TablePort()),
            "quiet": In(1), "freeing": In(1), "freed_sequence": In(10),
            "peeks": Out(stream.Signature(PEEK)), "peeked": In(PEEK_BITS * config.planes),
            "peek_failed": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entry = admin_entry(self.commands.payload.entry)
        completion: Any = self.completions.payload
        m.d.comb += [completion.queue.eq(self.commands.payload.queue), completion.cid.eq(entry["cid"])]

        def end(status: Status) -> None:
            m.d.sync += completion.status.eq(status)
            m.next = "COMPLETE"

        starts = {
            AdminOpcode.KV_CONFIG: "CHECK_CACHE", AdminOpcode.SEQ_CREATE: "READ_CACHE",
            AdminOpcode.POLICY_SET: "SET_POLICY", AdminOpcode.WINDOW_SET: "CHECK_WINDOW",
            AdminOpcode.FORMAT: "FORMAT", AdminOpcode.TABLE_READ: "READ_TABLE",
            AdminOpcode.TABLE_WRITE: "WRITE_TABLE", AdminOpcode.PAGE_PEEK: "CHECK_PLACE",
        }
        with m.FSM():
            with m.State("DECODE"), m.If(self.commands.valid):
                m.d.sync += completion.result.eq(0)
                with m.Switch(entry["opcode"]):
                    for opcode, state in starts.items():
                        with m.Case(int(opcode)):
                            m.next = state
                            with m.If(entry.reserved):
                                end(Status.BAD_FIELD)
                    with m.Default():
                        end(Status.BAD_OPCODE)
            self._configure_cache(m, entry, end)
            self._create_sequence(m, entry, end)
            self._set_policy_and_window(m, entry, end)
            with m.State("FORMAT"):
                with m.If(entry["cdw10"] > 1):
                    end(Status.BAD_FIELD)
                with m.Elif(self.quiet), m.If(
                        access(m, self.tables, TableOp.FORMAT, Table.SEQUENCE, 0, entry["cdw10"])):
                    end(Status.SUCCESS)
            self._peek(m, entry, completion, end)
            known = entry["cdw10"] <= max(Table)
            number = entry["cdw10"][:4]
            with m.State("READ_TABLE"):
                self._access_table(m, known, read(m, self.tables, number, entry["cdw11"]), end)
                m.d.sync += completion.result.eq(Mux(known & self.tables.ok, self.tables.answer, 0))
            with m.State("WRITE_TABLE"):
                value = Cat(entry["cdw12"], entry["cdw13"])
                self._access_table(m, known, write(m, self.tables, number, entry["cdw11"], value), end)
            with m.State("COMPLETE"):
                m.d.comb += self.completions.valid.eq(1)
                with m.If(self.completions.ready):
                    m.d.comb += self.commands.ready.eq(1)
                    m.next = "DECODE"
        return m

    def _peek(self, m: Module, entry: Any, completion: Any, end: Any) -> None:
        """PAGE_PEEK: the place has to be one that the device has."""
        c = self.config
        channel, die, page = entry["cdw10"][:8], entry["cdw10"][8:16], entry["cdw10"][16:]
        slot, offset = entry["cdw11"][:16], entry["cdw11"][16:]
        look = self.peeks.payload
        m.d.comb += [
            look.channel.eq(channel), look.die.eq(die), look.block.eq(entry["index"]), look.page.eq(page),
            look.slot.eq(slot), look.word.eq(offset >> 1),
        ]
        good = Cat(value < limit for value, limit in (
            (channel, c.channels), (die, c.dies), (entry["index"], c.physical_blocks), (page, c.pages),
            (slot, c.slots_per_page), (offset, SLOT_DATA_BYTES))).all() & ~offset[0]
        with m.State("CHECK_PLACE"):
            m.next = "PEEK"
            with m.If(~good):
                end(Status.BAD_FIELD)
        with m.State("PEEK"):
            m.d.comb += self.peeks.valid.eq(self.quiet)
            with m.If(self.peeks.valid & self.peeks.ready):
                end(Status.SUCCESS)
                m.d.sync += completion.result.eq(self.peeked)
                with m.If(self.peek_failed):
                    m.d.sync += completion.result.eq(0)
                    end(Status.UNRECOVERED_READ)

    def _access_table(self, m: Module, known: Value, done: Value, end: Any) -> None:
        with m.If(~known):
            m.d.comb += self.tables.valid.eq(0)
            end(Status.BAD_FIELD)
        with m.Elif(done):
            end(Status.SUCCESS)
            with m.If(~self.tables.ok):
                end(Status.BAD_FIELD)

    def _configure_cache(self, m: Module, entry: Any, end: Any) -> None:
        """KV_CONFIG: the shape has to be one that the engine was made for, and no sequence may use the
        handle."""
        c = self.config
        layers, kv_heads = entry["cdw10"][:16], entry["cdw10"][16:]
        queries, head_dim = entry["cdw11"][:16], entry["cdw11"][16:]
        tokens, handle = entry["cdw12"], entry["index"]
        sequence = Signal(range(c.max_sequences + 1))
        dims = [dim for dim in HEAD_DIMS if dim <= c.head_dim_max]

        def within(value: Value, limit: int) -> Value:
            return (value != 0) & (value <= limit)

        dtype, sketch_dims, bits, copies = (entry["cdw13"].word_select(byte, 8) for byte in range(4))
        sketchless = (sketch_dims == 0) & (bits == 0)
        sketch = (c.sketch_policy & Cat(sketch_dims == each for each in SKETCH_DIMS).any()
                  & Cat(bits == each for each in SKETCH_BITS).any())
        width = Mux(sketch_dims == 0, 0, Mux(bits[3], 2, bits[2]))
        good = (
            (copies[2:] == 0) & (copies[0] | ~copies[1]) & (~copies[0] | c.sparf_policy)
            & (sketchless | sketch)
            & within(layers, c.max_layers) & within(kv_heads, c.max_kv_heads)
            & within(queries, min(QUERIES_MAX, c.queries * c.head_slots))
            & Cat(head_dim == dim for dim in dims).any() & within(tokens, c.max_context))
        with m.State("CHECK_CACHE"):
            m.d.sync += sequence.eq(0)
            m.next = "LOOK_FOR_USER"
            with m.If(handle >= c.max_caches):
                end(Status.BAD_FIELD)
            with m.Elif(~Cat(dtype == each for each in Dtype).any()):
                end(Status.DTYPE)
            with m.Elif(~good):
                end(Status.BAD_FIELD)
        with m.State("LOOK_FOR_USER"), m.If(read(m, self.tables, Table.SEQUENCE, sequence)):
            m.d.sync += sequence.eq(sequence + 1)
            with m.If(sequence == c.max_sequences - 1):
                m.next = "WRITE_CACHE"
            with m.If(self.tables.answer[63] & (self.tables.answer[16:22] == handle)):
                end(Status.BUSY)
        value = Cat(layers[:9], kv_heads[:8], queries[:4], head_dim[:8], tokens[:18], dtype[:2],
                    sketch_dims[:7], width[:2], copies[:2], Const(0, 3), Const(1, 1))
        with m.State("WRITE_CACHE"), m.If(write(m, self.tables, Table.CACHE, handle, value)):
            end(Status.SUCCESS)

    def _create_sequence(self, m: Module, entry: Any, end: Any) -> None:
        """SEQ_CREATE: the map region has to lie in DRAM, the id has to be free."""
        c = self.config
        g = Geometry(c)
        base = entry["prp1"]
        cache = Signal(64)
        lines, stripes = Signal(17), Signal(STRIPE_BITS)
        map_end = Signal(DRAM_BITS + 1)
        sketch_stripes, dim_stripes = Signal(STRIPE_BITS), Signal(STRIPE_BITS)
        places, units, int8 = DimPlaces(c), cache[21:29] >> 4, cache[47]
        rows = rows_log2(cache[21:29], cache[47])
        m.submodules.place = place = SketchPlace(config=c)
        m.d.comb += [place.tokens.eq(cache[29:47]), place.size.eq(vector_size(cache[49:56], cache[56:58]))]
        with m.State("READ_CACHE"), m.If(read(m, self.tables, Table.CACHE, entry["cdw10"])):
            m.d.sync += cache.eq(self.tables.answer)
            m.next = "COUNT_LINES"
            with m.If(~self.tables.ok | ~self.tables.answer[63]):
                end(Status.BAD_FIELD)
        with m.State("COUNT_LINES"):
            m.d.sync += [
                lines.eq(cache[:9] * cache[9:17]),
                stripes.eq(g.stripes(cache[29:47], rows)), sketch_stripes.eq(0),
                dim_stripes.eq(Mux(cache[58], places.blocks(cache[29:47], int8)
                                   * places.stripes_per_block(units, int8), 0)),
            ]
            m.d.comb += place.start.eq(1)
            m.next = "PLACE_MAP"
            with m.If(cache[49:56] != 0):
                m.next = "PLACE_SKETCHES"
        with m.State("PLACE_SKETCHES"), m.If(place.done):
            m.d.sync += sketch_stripes.eq(place.stripe + ((place.slot != 0) | (place.vector != 0)))
            m.next = "PLACE_MAP"
        with m.State("PLACE_MAP"):
            m.d.sync += map_end.eq(
                base[:DRAM_BITS] + ((lines * (stripes + sketch_stripes + dim_stripes)) << 3))
            m.next = "CHECK_SEQUENCE"
            with m.If(cache[58] & cache[59]):
                m.next = "PLACE_SUMS"
        with m.State("PLACE_SUMS"):
            m.d.sync += map_end.eq(map_aligned(map_end) + sum_bytes(lines, units))
            m.next = "CHECK_SEQUENCE"
        with m.State("CHECK_SEQUENCE"), m.If(read(m, self.tables, Table.SEQUENCE, entry["index"])):
            m.next = "WRITE_SEQUENCE"
            with m.If(~self.tables.ok | (base[:MAP_ALIGN_BITS] != 0) | (base[DRAM_BITS:] != 0)
                      | (map_end > c.dram_bytes)):
                end(Status.BAD_FIELD)
            with m.Elif(self.tables.answer[63] | (self.freeing & (self.freed_sequence == entry["index"]))):
                end(Status.BUSY)
        value = Cat(entry["generation"], entry["cdw10"][:6], base[:36], Const(0, 5), Const(1, 1))
        with m.State("WRITE_SEQUENCE"), m.If(write(m, self.tables, Table.SEQUENCE, entry["index"], value)):
            end(Status.SUCCESS)

    def _set_policy_and_window(self, m: Module, entry: Any, end: Any) -> None:
        c = self.config
        keep, forced, group_log2 = entry["cdw11"], entry["cdw12"], entry["cdw13"]
        dims, sinks, mean_v = entry["cdw13"][8:16], entry["cdw12"][16:], entry["cdw13"][16]
        sparf = entry["cdw10"] == PolicyKind.SPARF
        nothing = (keep == 0) & (forced == 0)
        known = (
            (entry["cdw10"] == PolicyKind.DENSE) & nothing & (group_log2 == 0)
            | c.sketch_policy & (entry["cdw10"] == PolicyKind.SKETCH) & ~nothing & (keep < 1 << KEEP_BITS)
            & (group_log2 <= GROUP_LOG2_MAX)
            | c.sparf_policy & sparf & ~nothing & (keep < 1 << KEEP_BITS) & (dims != 0) & (dims <= DIMS_MAX)
            & (sinks <= SINKS_MAX) & (entry["cdw13"][:8] == 0) & (entry["cdw13"][17:] == 0))
        word = Cat(entry["cdw10"][:8], keep[:KEEP_BITS], Mux(sparf, 0, group_log2[:GROUP_LOG2_BITS]),
                   forced[:16], Mux(sparf, Cat(sinks[:10], (dims - 1)[:7], mean_v), sinks), Const(1, 1))
        with m.State("SET_POLICY"):
            with m.If((entry["index"] >= c.max_policies) | ~known):
                end(Status.BAD_FIELD)
            with m.Else(), m.If(write(m, self.tables, Table.POLICY, entry["index"], word)):
                end(Status.SUCCESS)
        unaligned = entry["prp1"][:WINDOW_ALIGN_BITS].any() | entry["prp2"][:WINDOW_ALIGN_BITS].any()
        with m.State("CHECK_WINDOW"):
            m.next = "WRITE_BASE"
            with m.If((entry["index"] >= c.max_windows) | (entry["cdw10"] > 3) | unaligned
                      | (entry["prp2"][62:] != 0)):
                end(Status.BAD_FIELD)
        index = (entry["index"] << 1)[:32]
        with m.State("WRITE_BASE"), m.If(write(m, self.tables, Table.WINDOW, index, entry["prp1"])):
            m.next = "WRITE_EXTENT"
        with m.State("WRITE_EXTENT"), m.If(
                write(m, self.tables, Table.WINDOW, index | 1, Cat(entry["prp2"][:62], entry["cdw10"][:2]))):
            end(Status.SUCCESS)
