# SPDX-License-Identifier: Apache-2.0
"""A controller reset, a time-out: in the middle of anything, the drive is usable afterwards."""

from collections.abc import Iterator
from typing import Any

import pytest

from instinfer.abi.commands import NAMESPACE, Opcode, Table
from instinfer.host import CommandTimeout, Csd, DeviceReset, open_csd
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

TOKENS, HEADS, QUERY_HEADS, DIMS = 150, 2, 4, 64


@pytest.fixture(scope="module")
def device() -> Iterator[Csd]:
    with open_csd("sim:tiny", erased=True) as csd:
        yield csd


class Load:
    """A sequence with 150 tokens in layer 0 (four stripes of each head in flash), and more to do."""

    def __init__(self, csd: Csd) -> None:
        random = rng("reset")
        self.csd = csd
        cache = csd.kv_cache(layers=2, kv_heads=HEADS, query_heads=QUERY_HEADS, head_dim=DIMS, max_tokens=400)
        self.sequence = cache.new_sequence()
        self.k, self.v = (random_half(random, (TOKENS, HEADS, DIMS)) for _ in range(2))
        self.q = random_half(random, (QUERY_HEADS, DIMS), 3)
        self.sequence.write(0, self.k, self.v)
        self.sequence.sync()

    def begin(self, work: str) -> list[Any]:
        sequence, k, v = self.sequence, self.k, self.v
        if work == "attend":
            return [sequence.attend_async(0, self.q) for _ in range(3)]
        if work == "write":
            return [sequence.write_async(1, k, v), sequence.attend_async(1, self.q)]
        if work == "append and attend":
            return [sequence.attend_async(0, self.q, append=(k[0], v[0])) for _ in range(8)]
        raw = {"nsid": NAMESPACE, "sequence": sequence.number, "generation": sequence.generation}
        opcode = {"free": Opcode.KV_FREE, "sync": Opcode.KV_SYNC}[work]
        pending = [sequence.write_async(1, k, v)]
        self.csd.queues[0].submit(opcode, raw)
        return pending

    def check(self) -> None:
        expected = exact_attention(self.csd.config, self.q, self.k, self.v)
        assert_same_bits(self.sequence.attend(0, self.q), expected)


def cycles_of(csd: Csd, work: str) -> int:
    """How long this work takes."""
    load = Load(csd)
    begun = csd.cycles()
    for pending in load.begin(work):
        pending.result()
    csd.queues[0].drain()
    ended = csd.cycles()
    assert begun is not None
    assert ended is not None
    return ended - begun


@pytest.mark.parametrize("work", ["attend", "write", "append and attend", "free", "sync"])
def test_reset_at_any_moment(device: Csd, work: str) -> None:
    device.reset()
    config = device.config
    duration = cycles_of(device, work)
    moments = sorted(int(share * duration) for share in rng(f"moments of {work}").random(4))
    interrupted = 0
    load = Load(device)
    for moment in moments:
        print(f"{work}: reset {moment} cycles after the doorbell, of {duration}")
        load.begin(work)
        device.transport.run(moment)  # type: ignore[attr-defined]
        device.queues[0].poll()
        interrupted += device.queues[0].outstanding > 0
        device.reset()
        with pytest.raises(DeviceReset):
            load.sequence.attend(0, load.q)
        assert device.read_table(Table.COUNTS, [0, 1]) == [config.blocks, config.stripe_buffers]
        load = Load(device)
        load.check()
    load.sequence.write(1, load.k, load.v)
    load.sequence.sync()
    assert_same_bits(load.sequence.attend(1, load.q),
                     exact_attention(config, load.q, load.k, load.v, layer=1))
    assert interrupted >= len(moments) // 2


def test_a_command_is_right_after_its_time_is_up(device: Csd) -> None:
    """The host's time-out ends the waiting alone: the command goes on, and its result is right."""
    device.reset()
    load = Load(device)
    pending = load.sequence.attend_async(0, load.q)
    with pytest.raises(CommandTimeout, match=r"waited 1 us of device time for ATTEND \[.*Csd\.reset"):
        pending.result(timeout_us=1)
    assert not pending.done
    assert_same_bits(pending.result(), exact_attention(device.config, load.q, load.k, load.v))
