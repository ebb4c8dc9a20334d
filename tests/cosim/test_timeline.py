# SPDX-License-Identifier: Apache-2.0
"""Events of a real run as intervals and as a Perfetto document."""

import json
from pathlib import Path

import numpy as np
import pytest

from instinfer.abi.config import EngineConfig
from instinfer.abi.presets import presets
from instinfer.cosim import timeline
from instinfer.cosim.native.binding import EVENT
from instinfer.host import open_csd
from instinfer.hw.events import COMMAND_EVENT, COMPLETION_EVENT, BusActivity, channel_event, event_layouts
from support import rng
from support.kv import random_half

TINY = presets()["tiny"]


def recorded(config: EngineConfig, changes: list[tuple[int, str, int]]) -> np.ndarray:
    names = list(event_layouts(config))
    return np.array([(cycle, value, names.index(name), 0) for cycle, name, value in changes], EVENT)


def channel(bus: BusActivity, ready: int = 3) -> int:
    return channel_event(TINY).const({"bus": bus, "ready": ready}).as_bits()


def test_states_become_intervals_and_bubbles_are_closed() -> None:
    events = recorded(TINY, [
        (100, "event_channel_0", channel(BusActivity.COMMAND)),
        (150, "event_channel_0", channel(BusActivity.DATA, ready=2)),
        (200, "event_channel_0", channel(BusActivity.IDLE, ready=2)),
        (205, "event_channel_0", channel(BusActivity.DATA, ready=3)),
        (300, "event_channel_0", channel(BusActivity.IDLE)),
        (400, "event_channel_0", channel(BusActivity.DATA)),
    ])
    found = timeline.intervals(TINY, events, end=500)
    bus = [(each.start, each.end, each.name) for each in found if each.track == "bus"]
    assert bus == [(100, 150, "command"), (150, 300, "data"), (400, 500, "data")]
    assert [(each.start, each.end) for each in found if each.track == "die 0"] == [(150, 205)]
    share = timeline.utilisation(found, group="channel 0", track="bus", name="data", start=200, end=300)
    assert share == pytest.approx(1.0)


def test_commands_get_lanes_and_statuses() -> None:
    def started(count: int, cid: int) -> int:
        return COMMAND_EVENT.const({"count": count, "opcode": 0x87, "cid": cid, "queue": 1}).as_bits()

    def ended(count: int, cid: int, status: int) -> int:
        return COMPLETION_EVENT.const({"count": count, "cid": cid, "queue": 1, "status": status}).as_bits()

    events = recorded(TINY, [
        (10, "event_command", started(1, 1)), (20, "event_command", started(2, 2)),
        (50, "event_completion", ended(1, 1, 0)), (60, "event_command", started(3, 3)),
        (90, "event_completion", ended(2, 2, 0x282)),
    ])
    found = timeline.intervals(TINY, events, end=100)
    assert [(each.track, each.start, each.end, each.name) for each in found] == [
        ("lane 0", 10, 50, "ATTEND cid 1"), ("lane 0", 60, 100, "ATTEND cid 3 (running)"),
        ("lane 1", 20, 90, "ATTEND cid 2: GUARD")]


def test_a_run_opens_in_perfetto(tmp_path: Path) -> None:
    random = rng("timeline")
    with open_csd("sim:tiny", erased=True, timeline=1 << 18) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=4, head_dim=64, max_tokens=512)
        sequence = cache.new_sequence()
        sequence.write(0, *(random_half(random, (200, 2, 64)) for _ in range(2)))
        sequence.attend(0, random_half(random, (4, 64)))
        simulation = csd.transport.simulation  # type: ignore[attr-defined]
        events, lost = simulation.take_events()
        found = timeline.intervals(csd.config, events, end=simulation.cycles)
    assert lost == 0
    seen = {(each.group, each.track, each.name.split(" cid")[0]) for each in found}
    assert {("channel 0", "bus", "data"), ("channel 1", "core", "busy"), ("channel 0", "die 1", "busy"),
            ("tail", "core", "busy"), ("merge", "merge", "merge"), ("commands", "lane 0", "ATTEND")} <= seen
    timeline.write_perfetto(tmp_path / "trace.json", csd.config, found)
    document = json.loads((tmp_path / "trace.json").read_text())
    spans = [each for each in document["traceEvents"] if each["ph"] == "X"]
    assert len(spans) == len(found)
    assert all(each["dur"] >= 0 for each in spans)
