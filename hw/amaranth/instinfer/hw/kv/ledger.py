# SPDX-License-Identifier: Apache-2.0
"""What the heads in flight still wait for, and what went wrong with them."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Status
from instinfer.abi.config import EngineConfig

from ..signatures import ReadError, read_fault, stripe_finish
from .headports import finish_reports
from .ports import STRIPE_BITS

FAULTS = (
    ("host", Status.TRANSFER_ERROR), ("not_finite", Status.NOT_FINITE),
    ("sketch_host", Status.TRANSFER_ERROR), ("scale", Status.SCALE), ("internal", Status.INTERNAL),
    ("timeout", Status.UNRECOVERED_READ), ("guard", Status.GUARD), ("reference_tag", Status.REFERENCE_TAG),
)
"""What can go wrong with a head, and the command's status; the first in this order wins."""
FAULT = data.StructLayout({name: 1 for name, _ in FAULTS})
REPORTS = (
    "loaded", "sketch_loaded", "asked", "not_finite", "refused", "host_error", "sketch_error", "bad_exponent",
    "scores_lost", "shared",
)
"""Pulses with the head slot that they are about; ``tail_error`` is one for each tail core."""


class HeadLedger(wiring.Component):
    """Per head slot: what is still awaited, stripes read from flash, and what went wrong.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    open : pulse, ``head_slot`` starts anew; ``open_loaded``: without queries; ``open_sketches``: with
        sketches; ``open_shares``: with shares of attended tokens
    loaded, sketch_loaded : pulse, the queries of the head of base slot ``head_slot`` are in the cores, their
        sketches in the scorers
    queries_loaded, sketches_loaded : per base slot, since when; also of those that need none
    issued, sensed, map_error, at_slot : pulses: a stripe of slot ``at_slot`` was asked for; it was one of
        rows in flash; one could not be found
    asked : pulse, all stripes of ``head_slot`` have been asked for
    finish : finished stripes, see `finish_reports`
    faults, not_finite, tail_error, scores_lost : reports, see `KvEngine`
    refused, host_error : host memory refused a row that was read back, a query row
    sketch_error, bad_exponent : host memory refused sketches of queries; one has an exponent out of range
    shared : the shares of the head of base slot ``head_slot`` are known
    look_slot, finished, senses, fault : whether a slot's queries (and shares) are there, all its stripes have
        been asked for and are finished; stripes of rows that flash sensed for it; its faults

    Latency: 1 cycle. Reports of any number may come in the same cycle; there is no back-pressure.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        slot = range(config.head_slots)
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(slot)})
        super().__init__({
            "open": In(pulse), "open_loaded": In(1), "open_sketches": In(1), "open_shares": In(1),
            **{name: In(pulse) for name in REPORTS}, "tail_error": In(pulse).array(config.tail_cores),
            "queries_loaded": Out(config.head_slots), "sketches_loaded": Out(config.head_slots),
            "issued": In(1), "sensed": In(1), "map_error": In(1), "at_slot": In(slot),
            "finish": In(stripe_finish(config)).array(finish_reports(config)),
            "faults": In(read_fault(config)).array(config.channels),
            "look_slot": In(slot), "finished": Out(1), "senses": Out(STRIPE_BITS), "fault": Out(FAULT),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for slot in range(self.config.head_slots):
            pending, senses = Signal(STRIPE_BITS, name=f"pending_{slot}"), Signal(STRIPE_BITS,
                                                                                  name=f"senses_{slot}")
            fault: Any = Signal(FAULT, name=f"fault_{slot}")
            asked, shared = Signal(name=f"asked_{slot}"), Signal(name=f"shared_{slot}")
            ended: Value = sum((report.valid & (report.base_slot == slot) for report in self.finish),
                               start=Value.cast(0))
            here = self.at_slot == slot

            def pulsed(name: str, at: int = slot) -> Value:
                report = getattr(self, name)
                return report.valid & (report.head_slot == at)

            def withheld(error: ReadError, at: int = slot) -> Value:
                return Cat(channel.valid & (channel.head_slot == at) & (channel.error == error)
                           for channel in self.faults).any()

            loaded, sketches = self.queries_loaded[slot], self.sketches_loaded[slot]
            m.d.sync += [
                pending.eq(pending + (self.issued & here) - ended), senses.eq(senses + (self.sensed & here)),
                loaded.eq(loaded | pulsed("loaded")), sketches.eq(sketches | pulsed("sketch_loaded")),
                asked.eq(asked | pulsed("asked")), shared.eq(shared | pulsed("shared")),
            ]
            found = {
                "host": pulsed("host_error") | pulsed("refused"), "not_finite": pulsed("not_finite"),
                "sketch_host": pulsed("sketch_error"), "scale": pulsed("bad_exponent"),
                "internal": ((self.map_error & here) | pulsed("scores_lost")
                             | Cat(tail.valid & (tail.head_slot == slot) for tail in self.tail_error).any()),
                "timeout": withheld(ReadError.TIMEOUT), "guard": withheld(ReadError.GUARD),
                "reference_tag": withheld(ReadError.REFERENCE_TAG),
            }
            m.d.sync += [fault[name].eq(fault[name] | value) for name, value in found.items()]
            with m.If(pulsed("open")):
                m.d.sync += [
                    Value.cast(fault).eq(0), senses.eq(0), asked.eq(0), loaded.eq(self.open_loaded),
                    sketches.eq(~self.open_sketches), shared.eq(~self.open_shares),
                ]
            with m.If(self.look_slot == slot):
                m.d.comb += [
                    self.finished.eq(asked & loaded & sketches & shared & (pending == 0)),
                    self.senses.eq(senses), self.fault.eq(fault),
                ]
        return m
