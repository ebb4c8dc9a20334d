# SPDX-License-Identifier: Apache-2.0
"""MQSim: a device configuration and a trace of one layer and step of attention.

Source: MQSim (FAST 2018), its documented XML parameters and its ASCII trace: arrival time in ns, device,
start sector, sectors of 512 B, 1 for a read. MQSim has neither multi-plane cache reads of parts of a page nor
attention: what the trace shows is which sectors a policy reads, when the drive would be told to read them.
"""

from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import flash_stripes

from ..drive.load import Job

SECTOR = 512


def configuration(config: EngineConfig) -> str:
    """XML of the SSD's part, from the engine's configuration."""
    t = config.timing
    root = ElementTree.Element("Execution_Parameter_Set")
    device = ElementTree.SubElement(root, "Device_Parameter_Set")
    values = {
        "Seed": 1, "HostInterface_Type": "NVME", "Caching_Mechanism": "SIMPLE",
        "Address_Mapping": "PAGE_LEVEL",
        "Plane_Allocation_Scheme": "PCWD", "Flash_Channel_Count": config.channels,
        "Flash_Channel_Width": 1, "Channel_Transfer_Rate": config.mega_transfers,
        "Chip_No_Per_Channel": config.dies, "Flash_Comm_Protocol": "NVDDR2",
    }
    for name, value in values.items():
        ElementTree.SubElement(device, name).text = str(value)
    flash = ElementTree.SubElement(device, "Flash_Parameter_Set")
    for name, value in {
        "Flash_Technology": "SLC", "Page_Read_Latency_LSB": t.tR, "Page_Program_Latency_LSB": t.tPROG,
        "Block_Erase_Latency": t.tBERS, "Die_No_Per_Chip": 1, "Plane_No_Per_Die": config.planes,
        "Block_No_Per_Plane": config.physical_blocks, "Page_No_Per_Block": config.pages,
        "Page_Capacity": config.page_bytes, "Page_Metadat_Capacity": config.spare_bytes,
    }.items():
        ElementTree.SubElement(flash, name).text = str(value)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="us-ascii"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def trace(config: EngineConfig, job: Job, *, seconds: float = 0.0, seed: int = 1) -> Iterator[str]:
    """Lines of the reads of K and V rows of ``job``: each run of neighbouring sectors, seeded choices.

    Args:
        seconds: over which the commands arrive, evenly.
    """
    random = np.random.default_rng(seed)
    shape = job.shape
    stripes = flash_stripes(config, shape, job.tokens, job.tokens)
    per_stripe, per_slot = shape.tokens_per_stripe(config), shape.rows_per_slot
    sectors = config.stripe_data_bytes // SECTOR
    pair = 2 * 1024 // SECTOR
    for command in range(job.commands):
        time = round(1e9 * seconds * command / job.commands)
        for head in range(job.heads):
            for stripe in range(stripes):
                groups = random.random(per_stripe // job.group) < job.share
                pairs = np.logical_or.reduce(np.repeat(groups, job.group).reshape(-1, per_slot), axis=-1)
                first = (head * stripes + stripe) * sectors
                edges = np.flatnonzero(np.diff(np.pad(pairs.astype(np.int8), 1)))
                for begin, end in edges.reshape(-1, 2):
                    yield f"{time} 0 {first + begin * pair} {(end - begin) * pair} 1"
