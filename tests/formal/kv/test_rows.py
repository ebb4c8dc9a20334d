# SPDX-License-Identifier: Apache-2.0
"""`RowAllocator`: a page of a superblock is given once, in order, and only between two erases of it."""

import dataclasses
from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib import enum

from formal.flash.small import small
from instinfer.abi.commands import Table
from instinfer.hw.kv.ports import TableOp
from instinfer.hw.kv.rows import RowAllocator
from support.formal import (
    Bench,
    assume_held,
    fsm_in,
    fsm_numbers,
    fsm_state,
    inner,
    mutated,
    opened,
    transfer,
)

CONFIG = dataclasses.replace(small(dies=2), pages=2)
PAGE_BITS = CONFIG.pages.bit_length() - 1
LIMIT = CONFIG.max_superblocks_per_sequence
ONCE = "pages of a superblock are given once each, in order"
ERASED = "a superblock is owned only after an erase that went well"
ITS_OWN = "a page is of a superblock that its sequence owns"


class Where(enum.Enum, shape=3):
    """The superblock that is watched."""

    FREE = 0
    """In the free FIFO."""
    TAKEN = 1
    """Out of the FIFO, nobody's yet."""
    OWNED = 2
    GONE = 3
    """Dropped, it did not erase."""
    BACK = 4
    """Its sequence is freed: it is being erased."""


class RowsBench(Bench):
    """A superblock, a sequence and a die of it, any of each, are watched; the tables hold of them what was
    written. Any number of sequences, requests, erases that fail. A sequence is freed at any time while no row
    of it is asked for (`FreeEngine`); its superblocks are erased and come back, or never do.

    Assumed of `Tables`, not proved: a read gives what was written, the free FIFO gives each number that it
    was given, once. Of `FreeEngine`: it gives a superblock back when all its dies have erased it."""

    def __init__(self, allocator: RowAllocator):
        super().__init__()
        self.allocator = allocator
        self.frees, self.freed, self.returns = Signal(), Signal(range(CONFIG.max_sequences)), Signal()
        self.known_at_first = Signal()
        self.free_inputs(allocator)
        self.free(self.frees, self.freed, self.returns, self.known_at_first)

    def describe(self, m: Module) -> None:
        allocator, tables = self.allocator, self.allocator.tables
        m.submodules.allocator = inside = opened(allocator)
        superblock = self.any_constant(m, range(CONFIG.superblocks), "superblock")
        sequence = self.any_constant(m, range(CONFIG.max_sequences), "sequence")
        die = self.any_constant(m, range(CONFIG.row_counters), "die")
        request, result = allocator.requests.payload, allocator.results.payload
        assume_held(m, allocator.requests)
        m.d.comb += Assume((request.sequence < CONFIG.max_sequences) & (request.channel < CONFIG.channels)
                           & (request.virtual_die < CONFIG.group_dies))

        where, owner, at = Signal(Where), Signal.like(sequence), Signal(range(LIMIT))
        known, clean, was_first = Signal(), Signal(), Signal(init=1)  # in its table; in truth
        is_known = Mux(was_first, self.known_at_first, known)
        is_clean = Mux(was_first, self.known_at_first, clean)
        rows, count = Signal(9), Signal(range(LIMIT + 1))  # in the tables, of sequence and die
        given = Signal(range(CONFIG.pages + 1))  # pages of the superblock on the die
        m.d.sync += [was_first.eq(0), known.eq(is_known), clean.eq(is_clean)]

        # The tables, as far as they concern what is watched.
        done = tables.valid & tables.done
        found, value = tables.answer, tables.value

        def access(op: TableOp, table: Table, index: Any = None) -> Any:
            here = done & (tables.op == op) & (tables.table == table)
            return here if index is None else here & (tables.index == index)

        row_index = sequence * CONFIG.row_counters + die
        listed = (where == Where.OWNED) & (tables.index == owner * LIMIT + at)
        list_read = access(TableOp.READ, Table.SUPERBLOCK_LIST)
        pops = access(TableOp.POP, Table.SUPERBLOCK_FREE) & tables.ok & (found == superblock)
        lists = access(TableOp.WRITE, Table.SUPERBLOCK_LIST) & (value == superblock)
        numbers = access(TableOp.POP, Table.SUPERBLOCK_FREE) & tables.ok | list_read
        m.d.comb += [
            Assume(~numbers | (found < CONFIG.superblocks)),
            Assume(~pops | (where == Where.FREE)),
            Assume(~list_read | ((found == superblock) == listed)),
            Assume(~access(TableOp.READ, Table.SUPERBLOCK_ERASED, superblock) | (found[0] == is_known)),
            Assume(~access(TableOp.READ, Table.ROW_COUNT, row_index) | (found == rows)),
            Assume(~access(TableOp.READ, Table.COUNTS, sequence + 2) | (found == count)),
            Assume(~access(TableOp.READ, Table.COUNTS) | (found <= LIMIT)),  # as that of ``sequence``
        ]
        with m.If(pops):
            m.d.sync += where.eq(Where.TAKEN)
        with m.If(lists):
            m.d.sync += [where.eq(Where.OWNED), owner.eq(tables.index >> LIMIT.bit_length() - 1),
                         at.eq(tables.index[:LIMIT.bit_length() - 1]), given.eq(0), clean.eq(0)]
        with m.If(access(TableOp.WRITE, Table.SUPERBLOCK_ERASED, superblock)):
            m.d.sync += known.eq(value[0])
        with m.If(access(TableOp.WRITE, Table.ROW_COUNT, row_index)):
            m.d.sync += rows.eq(value)
        with m.If(access(TableOp.WRITE, Table.COUNTS, sequence + 2)):
            m.d.sync += count.eq(value)

        # Erases asked for here, and the freeing of sequences.
        erasing, own = Signal(), Signal()
        with m.If(transfer(allocator.erase)):
            m.d.sync += [erasing.eq(1), own.eq(allocator.erase.payload == superblock)]
        with m.If(transfer(allocator.erased)):
            m.d.sync += erasing.eq(0)
            with m.If(own & (where == Where.TAKEN)):
                m.d.sync += [clean.eq(1)]
                with m.If(~allocator.erased.payload.good):
                    m.d.sync += [where.eq(Where.GONE), clean.eq(0)]
        busy, at_hand = ~fsm_in(inside, "TAKE_REQUEST"), inner(inside, "sequence")
        m.d.comb += [Assume(~allocator.erased.valid | erasing),
                     Assume(~self.frees | ~busy | (at_hand != self.freed)),
                     Assume(~self.returns | (where == Where.BACK))]
        with m.If(self.frees & (self.freed == sequence)):
            m.d.sync += [rows.eq(0), count.eq(0)]
        with m.If(self.frees & (where == Where.OWNED) & (owner == self.freed)):
            m.d.sync += where.eq(Where.BACK)
        with m.If(self.returns):
            m.d.sync += [where.eq(Where.FREE), known.eq(1), clean.eq(1)]

        gives = transfer(allocator.results) & result.found & (result.block == superblock)
        on_die = inner(inside, "row_index") == at_hand * CONFIG.row_counters + die
        with m.If(gives & on_die):
            m.d.sync += given.eq(given + 1)
        m.d.comb += [
            Assert(~gives | (where == Where.OWNED) & (owner == at_hand), ITS_OWN),
            Assert(~(gives & on_die & (owner == sequence)) | (given < CONFIG.pages) & (result.page == given),
                   ONCE),
            Assert(~lists | (where == Where.TAKEN) & is_clean & ~erasing, ERASED),
            Assert(~(transfer(allocator.erase) & (allocator.erase.payload == superblock))
                   | (where == Where.TAKEN), "only a superblock that is nobody's is erased"),
            Assert(~access(TableOp.WRITE, Table.SUPERBLOCK_FREE), "none goes back into the FIFO from here"),
            Assert((where != Where.OWNED) | ~is_known, "one that is owned is not known to be erased"),
            Cover(gives & on_die & (given == CONFIG.pages - 1), "the last page"),
            Cover(gives & (owner == sequence) & (at == 1), "a second superblock"),
            Cover(where == Where.GONE, "one is dropped"),
            Cover(gives & was_back(m, where), "one comes back and is given again"),
        ]
        self._state(m, inside, superblock=superblock, sequence=sequence, die=die, where=where, owner=owner,
                    at=at, rows=rows, count=count, given=given, known=is_known, clean=is_clean,
                    erasing=erasing, own=own)

    def _state(self, m: Module, inside: Any, **of: Any) -> None:
        """What makes these inductive: the allocator's registers against the tables, state by state."""
        held, divider = self.allocator.erase.payload, inside.submodules.divider
        at_hand, row, owned, row_index = (
            inner(inside, name) for name in ("sequence", "row", "owned", "row_index"))
        where, sequence = of["where"], of["sequence"]
        ours = at_hand == sequence
        on_die = row_index == sequence * CONFIG.row_counters + of["die"]
        divided = ("READ_COUNT", "COMPARE", "TAKE_SUPERBLOCK", "READ_ERASED", "ERASE", "WAIT_FOR_ERASE",
                   "WRITE_ERASED", "WRITE_LIST", "WRITE_COUNT", "READ_LIST", "WRITE_ROW")
        in_hand = ("READ_ERASED", "ERASE", "WAIT_FOR_ERASE", "WRITE_ERASED", "WRITE_LIST")
        new = ("TAKE_SUPERBLOCK", *in_hand)
        is_it = held == of["superblock"]
        listed_here = (where == Where.OWNED) & (of["owner"] == at_hand)
        quotient, page = divider.quotient, divider.remainder
        answers = fsm_in(inside, "ANSWER") & self.allocator.results.payload.found
        in_list = of["rows"] >> PAGE_BITS
        into = Mux(in_list < of["at"], 0, Mux(in_list == of["at"], of["rows"][:PAGE_BITS], CONFIG.pages))
        busy = ~fsm_in(inside, "TAKE_REQUEST")
        m.d.comb += [
            Assert(~busy | (at_hand < CONFIG.max_sequences)
                   & (row_index >= at_hand * CONFIG.row_counters)
                   & (row_index < (at_hand + 1) * CONFIG.row_counters), "request: one of those there are"),
            Assert((where == Where.TAKEN) == (fsm_in(inside, *in_hand) & is_it), "taken: in hand"),
            Assert(~fsm_in(inside, "WAIT_FOR_ERASE") | (of["own"] == is_it), "erase: of what is in hand"),
            Assert(of["erasing"] == fsm_in(inside, "WAIT_FOR_ERASE"), "erase: waited for"),
            Assert(~of["known"] | of["clean"], "known to be erased: it is"),
            Assert(~(fsm_in(inside, "WRITE_ERASED", "WRITE_LIST") & is_it) | of["clean"], "listed: clean"),
            Assert(~(fsm_in(inside, "ERASE", "WAIT_FOR_ERASE", "WRITE_LIST") & is_it) | ~of["known"],
                   "erased now or listed: not known to be erased"),
            Assert((where == Where.FREE) | (where == Where.TAKEN) | ~of["known"], "known: free"),
            Assert(of["count"] <= LIMIT, "superblocks: within the limit"),
            Assert(of["rows"] <= of["count"] * CONFIG.pages, "rows: in the superblocks that are owned"),
            Assert(~(on_die & fsm_in(inside, "DIVIDE", *divided)) | (row == of["rows"]),
                   "row: from the table"),
            Assert(~fsm_in(inside, *divided) | (quotient == row >> PAGE_BITS)
                   & (page == row[:PAGE_BITS]) & divider.done, "row: divided"),
            Assert(~(ours & fsm_in(inside, "COMPARE", "READ_LIST", *new, "WRITE_COUNT"))
                   | (owned == of["count"]), "superblocks: from the table"),
            Assert(~fsm_in(inside, "COMPARE", "READ_LIST") | (owned <= LIMIT), "owned: within the limit"),
            Assert(~fsm_in(inside, *new, "WRITE_LIST", "WRITE_COUNT") | (owned < LIMIT), "room in the list"),
            Assert(~fsm_in(inside, "READ_LIST") | (quotient < owned), "list: read where it was written"),
            Assert(~(on_die & fsm_in(inside, *new, "WRITE_COUNT")) | (quotient == owned) & (page == 0),
                   "a new superblock: from its first page on"),
            Assert(~(on_die & fsm_in(inside, "WRITE_ROW")) | (quotient < of["count"]), "row: in the list"),
            Assert((where != Where.OWNED) | (of["owner"] != sequence) | (of["at"] < of["count"])
                   | fsm_in(inside, "WRITE_COUNT") & ours & (of["at"] == of["count"]), "owned: in the list"),
            Assert(~(fsm_in(inside, "WRITE_COUNT") & (ours | is_it))
                   | (is_it == (listed_here & (of["at"] == owned))), "new: at the end of the list"),
            Assert(~(fsm_in(inside, "WRITE_ROW") & is_it) | listed_here, "row: of what the sequence owns"),
            Assert(~(fsm_in(inside, "WRITE_ROW") & on_die)
                   | (is_it == (listed_here & (of["at"] == quotient))), "row: of its superblock"),
            Assert(~(answers & is_it) | listed_here, "answer: of its sequence"),
            Assert((where != Where.OWNED) | (of["owner"] != sequence)
                   | (into == of["given"] + (answers & on_die & is_it)), "given: what the rows say"),
            Assert(~(answers & on_die & is_it) | (of["given"] == page), "answer: the next page"),
        ]


def was_back(m: Module, where: Signal) -> Signal:
    seen = Signal(name="was_back")
    with m.If(where == Where.BACK):
        m.d.sync += seen.eq(1)
    return seen


@pytest.mark.formal
def test_rows(proof):
    proof(RowsBench(RowAllocator(config=CONFIG)), steps=1)


def takes_what_did_not_erase(m: Module, allocator: RowAllocator) -> None:
    """An erase's result is not looked at."""
    state, then = fsm_state(m), fsm_numbers(m)["WRITE_ERASED"]
    with m.If(fsm_in(m, "WAIT_FOR_ERASE") & allocator.erased.valid):
        m.d.sync += state.eq(then)


def forgets_the_row(m: Module, allocator: RowAllocator) -> None:
    """The count of rows stays as it was."""
    row = inner(m, "row")
    with m.If(fsm_in(m, "WRITE_ROW")):
        m.d.comb += allocator.tables.value.eq(row)


@pytest.mark.formal
def test_broken_ones_are_seen(refutation):
    refutation(RowsBench(mutated(RowAllocator(config=CONFIG), takes_what_did_not_erase)), ERASED, bound=40)
    refutation(RowsBench(mutated(RowAllocator(config=CONFIG), forgets_the_row)), ONCE, bound=60)
