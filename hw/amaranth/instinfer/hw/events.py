# SPDX-License-Identifier: Apache-2.0
"""What the engine shows of its work, for timelines: one small word per source, recorded when it changes.

A word of a board's debug core, an FST waveform or the native harness's event ring; nothing inside the
engine depends on it.
"""

from collections.abc import Mapping

from amaranth.lib import data, enum

from instinfer.abi.config import EngineConfig


class BusActivity(enum.Enum, shape=3):
    """What a flash bus does in a cycle."""

    IDLE = 0
    COMMAND = 1
    DATA = 2
    ARRAY_WAIT = 3
    BUFFER_WAIT = 4


class CoreActivity(enum.Enum, shape=2):
    """What an attention core does in a cycle."""

    IDLE = 0
    BUSY = 1
    STALL = 2


COMMAND_EVENT = data.StructLayout({"count": 8, "opcode": 8, "cid": 16, "queue": 5})
"""The newest command that was started; ``count`` changes with each."""
COMPLETION_EVENT = data.StructLayout({"count": 8, "status": 11, "cid": 16, "queue": 5})
"""The newest completion that was handed to its queue."""
MERGE_EVENT = data.StructLayout({"busy": 1})


def channel_event(config: EngineConfig) -> data.StructLayout:
    """``ready`` is R/B# of each die, 1 = ready; ``core`` that of the core that serves the channel, maybe with
    others."""
    return data.StructLayout({"bus": BusActivity, "core": CoreActivity, "ready": config.dies})


def tail_name(kind: str, number: int) -> str:
    """Of what belongs to a tail core; those behind the first are numbered."""
    return f"{kind}_{number}" if number else kind


def event_layouts(config: EngineConfig) -> Mapping[str, data.StructLayout]:
    """The engine's event ports in order: name -> layout."""
    channels = {f"event_channel_{index}": channel_event(config) for index in range(config.channels)}
    return {
        **channels,
        **{tail_name("event_tail", number): data.StructLayout({"core": CoreActivity})
           for number in range(config.tail_cores)},
        "event_merge": MERGE_EVENT,
        "event_command": COMMAND_EVENT,
        "event_completion": COMPLETION_EVENT,
    }
