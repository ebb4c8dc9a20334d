# SPDX-License-Identifier: Apache-2.0
"""Writes pytorch_errors.json: RMS errors of PyTorch's fp16 attention on the seeded operands.

Needs ``pip install torch==2.13.0`` beside numpy; the tests read the JSON and need neither it nor this file.
Run ``python tests/abi/measure_pytorch.py`` after a change of attention_cases.py.
"""

import json
from pathlib import Path

import numpy as np
import torch
from attention_cases import CASES, operands, reference, rms


def main() -> None:
    errors = {}
    for case in CASES:
        q, k, v = operands(case)
        tensors = (torch.from_numpy(x)[None, None] for x in (q, k, v))
        got = torch.nn.functional.scaled_dot_product_attention(*tensors, scale=case.dim ** -0.5)
        error = got[0, 0].numpy().astype(np.float64) - reference(q, k, v, case.dim ** -0.5)
        errors[case.name] = {"seed": case.seed, "tokens": case.tokens, "dim": case.dim, "rms": rms(error)}
    document = {"torch": torch.__version__.split("+")[0], "dtype": "float16", "cases": errors}
    Path(__file__).with_name("pytorch_errors.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
