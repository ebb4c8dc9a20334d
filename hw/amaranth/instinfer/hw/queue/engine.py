# SPDX-License-Identifier: Apache-2.0
"""Queues between the host's memory and the command executor."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import ADMIN_SQE, AdminOpcode, Field, Status
from instinfer.abi.config import EngineConfig
from instinfer.hw.signatures import COMMAND, COMPLETION, MemoryReadPort, MemoryWritePort
from instinfer.hw.stream.arbiter import StreamArbiter

from .completer import CompletionWriter
from .fetcher import SubmissionFetcher
from .ports import ADMIN_QUEUES, DOORBELL, PAGE_BITS, QUEUE_CONTEXT, FaultReport

_CREATE_FIELDS = ("opcode", "cid", "prp1", "cdw10", "cdw11")


def _field(entry: Value, field: Field) -> Value:
    return entry[field.low:field.low + field.width]


class QueueCreator(wiring.Component):
    """Executes CREATE_SQ and CREATE_CQ, and lets all other entries pass.

    Checks, first failure wins: reserved bits (BAD_FIELD; CREATE_CQ: cdw11 bit 0 contiguous, bit 1 interrupt
    enable, rest 0; CREATE_SQ: cdw11 bit 0 contiguous, 31:16 completion queue), queue number (QUEUE_ID: 0,
    too high, in use, completion queue absent or of another number), entries (QUEUE_SIZE: below 2, above
    ``queue_entries_max``), base on a 4 KiB page (PRP_OFFSET).

    Latency: 1 cycle for entries that pass, 3 for a creation. Throughput: an entry every 2 cycles.
    Back-pressure: what comes behind a creation waits for its completion to be taken.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        queues = config.io_queues + 1
        super().__init__({
            "entry": In(stream.Signature(COMMAND)),
            "command": Out(stream.Signature(COMMAND)),
            "completion": Out(stream.Signature(COMPLETION)),
            "submission_exists": In(queues),
            "completion_exists": In(queues),
            "context": Out(QUEUE_CONTEXT),
            "create_submission": Out(1),
            "create_completion": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entry = self.entry.payload.entry
        opcode = _field(entry, ADMIN_SQE["opcode"])
        is_sq, is_cq = opcode == AdminOpcode.CREATE_SQ, opcode == AdminOpcode.CREATE_CQ
        mine = (self.entry.payload.queue == 0) & (is_sq | is_cq)

        fields = [ADMIN_SQE[name] for name in _CREATE_FIELDS]
        used = sum(((1 << field.width) - 1) << field.low for field in fields)
        reserved = [entry[bit] for bit in range(512) if not used >> bit & 1]
        base = _field(entry, ADMIN_SQE["prp1"])
        number, last = _field(entry, ADMIN_SQE["cdw10"])[:16], _field(entry, ADMIN_SQE["cdw10"])[16:]
        options = _field(entry, ADMIN_SQE["cdw11"])
        options_bad = Mux(is_sq, options[1:16].any(), options[2:].any())
        in_use = Mux(is_sq, self.submission_exists, self.completion_exists).bit_select(number[:5], 1)
        absent = is_sq & (~self.completion_exists.bit_select(number[:5], 1) | (options[16:] != number))
        # One cycle to look at the entry, one to pass it on or to judge it.
        looked = Signal()
        creation = Signal()
        parts = (Cat(reserved[at:at + 32]).any() for at in range(0, len(reserved), 32))
        faults = {
            Status.BAD_FIELD: Cat(options_bad, *parts),
            Status.QUEUE_ID: (number == 0) | (number > self.config.io_queues) | in_use | absent,
            Status.QUEUE_SIZE: (last == 0) | (last >= self.config.queue_entries_max),
            Status.PRP_OFFSET: base[:PAGE_BITS] != 0,
        }
        status = Signal(11)
        m.d.comb += status.eq(Status.SUCCESS)
        for fault, signs in reversed(faults.items()):
            found = Signal(len(signs), name=f"found_{fault.name.lower()}")
            m.d.sync += found.eq(signs)
            with m.If(found.any()):
                m.d.comb += status.eq(fault)

        create = looked & creation
        good = create & (status == Status.SUCCESS)
        m.d.comb += [
            self.command.payload.eq(self.entry.payload),
            self.command.valid.eq(looked & ~creation),
            self.entry.ready.eq(looked & (creation | self.command.ready)),
        ]
        m.d.sync += [
            looked.eq(Mux(looked, ~self.entry.ready, self.entry.valid & ~self.completion.valid)),
            creation.eq(mine),
        ]
        m.d.sync += [
            self.create_submission.eq(good & is_sq),
            self.create_completion.eq(good & is_cq),
        ]
        with m.If(self.completion.ready):
            m.d.sync += self.completion.valid.eq(0)
        with m.If(create):
            m.d.sync += [
                self.context.queue.eq(number), self.context.page.eq(base >> PAGE_BITS),
                self.context.last.eq(last), self.context.interrupt.eq(options[1]),
                self.completion.valid.eq(1),
                self.completion.payload.queue.eq(0),
                self.completion.payload.cid.eq(_field(entry, ADMIN_SQE["cid"])),
                self.completion.payload.status.eq(status),
                self.completion.payload.result.eq(0),
            ]
        return m


class QueueEngine(wiring.Component):
    """Admin queue and ``io_queues`` queue pairs: fetches commands, executes queue creation, posts
    completions.

    Every fetched command has a place in its completion queue reserved, so a full completion queue stops the
    fetching of its own queue and nothing else. Each command that leaves at ``command`` must come back once
    at ``completion``, in any order, after the responses of its data writes have been seen.

    A fault halts the queue concerned (no more of its commands are fetched; what was fetched completes);
    other queues go on, and CSTS.CFS asks the host for a reset. Doorbells of queues that do not exist are
    reported and change nothing.

    Reset drops everything; memory reads and writes under way are drained by the bridge's ``clear``.

    Parameters
    ----------
    config : ``io_queues``, ``queue_entries_max``

    Members
    -------
    admin : queue 0, sampled in the first cycle after reset; its interrupt is enabled
    doorbell : doorbell writes in order
    read, write : the host's memory
    command : entries for the executor, round robin over the queues that have work
    completion : their results
    unread : an interrupt is due (see `RegisterFile`)
    fault : reports
    done, failed : a completion was made in this cycle, its status was not SUCCESS (COMMANDS, ERRORS)

    Latency: 6 cycles from a doorbell to the read request, 4 from the entry's last beat to ``command``, 3
    from ``completion`` to the write request. Throughput: a command every 2 cycles, a completion every 3, a
    tail doorbell in every cycle, a head doorbell every 6. Back-pressure: ENTRIES_AHEAD entries wait for a
    slow executor; ``read`` data are always taken, ``doorbell`` but for a head behind a head.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.queues = config.io_queues + 1
        super().__init__({
            "admin": In(ADMIN_QUEUES),
            "doorbell": In(stream.Signature(DOORBELL)),
            "read": Out(MemoryReadPort()),
            "write": Out(MemoryWritePort()),
            "command": Out(stream.Signature(COMMAND)),
            "completion": In(stream.Signature(COMPLETION)),
            "unread": Out(1),
            "fault": Out(FaultReport()),
            "done": Out(1),
            "failed": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetcher = fetcher = SubmissionFetcher(queues=self.queues)
        m.submodules.completer = completer = CompletionWriter(queues=self.queues)
        m.submodules.creator = creator = QueueCreator(self.config)
        m.submodules.results = results = StreamArbiter(shape=COMPLETION, ports=2)
        wiring.connect(m, wiring.flipped(self.read), fetcher.memory)
        wiring.connect(m, wiring.flipped(self.write), completer.memory)
        wiring.connect(m, fetcher.entry, creator.entry)
        wiring.connect(m, wiring.flipped(self.command), creator.command)
        wiring.connect(m, wiring.flipped(self.completion), results.i[0])
        wiring.connect(m, creator.completion, results.i[1])
        wiring.connect(m, results.o, completer.completion)
        m.d.comb += [
            creator.submission_exists.eq(fetcher.exists),
            creator.completion_exists.eq(completer.exists),
            completer.taken.eq(fetcher.taken),
            completer.taken_queue.eq(fetcher.taken_queue),
            completer.heads.eq(fetcher.heads),
            fetcher.room.eq(completer.room),
            fetcher.halt.eq(completer.halt),
            self.unread.eq(completer.unread),
            self.done.eq(completer.done),
            self.failed.eq(completer.failed),
        ]
        self._create(m, creator, fetcher, completer)
        self._ring(m, fetcher, completer)

        m.d.comb += self.fault.valid.eq(fetcher.fault.valid | completer.fault.valid)
        with m.If(completer.fault.valid):
            m.d.comb += self.fault.cause.eq(completer.fault.cause)
        with m.Else():
            m.d.comb += self.fault.cause.eq(fetcher.fault.cause)
        return m

    def _create(self, m: Module, creator: QueueCreator, fetcher: SubmissionFetcher,
                completer: CompletionWriter) -> None:
        """Queue 0 in the first cycle, then whatever the creator says."""
        started = Signal()
        m.d.sync += started.eq(1)
        with m.If(started):
            m.d.comb += [
                fetcher.create.eq(creator.context), completer.create.eq(creator.context),
                fetcher.create_enable.eq(creator.create_submission),
                completer.create_enable.eq(creator.create_completion),
            ]
        with m.Else():
            m.d.comb += [
                fetcher.create.page.eq(self.admin.sq_base >> PAGE_BITS),
                fetcher.create.last.eq(self.admin.sq_last),
                completer.create.page.eq(self.admin.cq_base >> PAGE_BITS),
                completer.create.last.eq(self.admin.cq_last),
                completer.create.interrupt.eq(1),
                fetcher.create_enable.eq(1), completer.create_enable.eq(1),
            ]

    def _ring(self, m: Module, fetcher: SubmissionFetcher, completer: CompletionWriter) -> None:
        """Doorbells to the side they concern: tails are taken at once."""
        bell = self.doorbell.payload
        m.d.comb += [
            fetcher.tail.queue.eq(bell.queue),
            fetcher.tail.value.eq(bell.value),
            fetcher.tail_enable.eq(self.doorbell.valid & ~bell.completion),
            completer.head.payload.queue.eq(bell.queue),
            completer.head.payload.value.eq(bell.value),
            completer.head.valid.eq(self.doorbell.valid & bell.completion),
            self.doorbell.ready.eq(~bell.completion | completer.head.ready),
        ]
