# SPDX-License-Identifier: Apache-2.0
"""``python -m instinfer.cosim.coverage``: the report over what the suites left behind (``make coverage``).

Exit status 1 when a block is below its aim or a component was in no build, 2 when the data or the list of
exceptions cannot be used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import instinfer.hw

from . import blocks, crosses, page, points


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="instinfer.cosim.coverage", description="report of `make coverage`")
    parser.add_argument("folder", type=Path, help="what INSTINFER_COVERAGE named; the report goes there")
    parser.add_argument("--exceptions", type=Path, required=True, help="the committed list (TOML)")
    parser.add_argument("--root", type=Path, default=Path(instinfer.hw.__path__[0]), help="of the components")
    parser.add_argument("--blocks", nargs="*", default=(), help="judge these alone (all)")
    given = parser.parse_args(arguments)
    try:
        allowed = blocks.read_exceptions(given.exceptions)
        judged = blocks.judge(points.read(given.folder, given.root), given.root, allowed, given.blocks)
    except points.CoverageError as fault:
        print(f"coverage: error: {fault}", file=sys.stderr)
        return 2
    functional = given.folder / "functional"
    seen = crosses.read(functional) if functional.is_dir() else None
    written = page.write(given.folder, judged, seen, given.root)
    print(*page.table(judged), sep="\n")
    if seen is not None:
        print("", *page.cross_table(seen), sep="\n")
    low = [block for block in judged if not block.good]
    for block in low:
        wanted = 100 * blocks.LINES_WANTED
        print(f"\n{block.name}: {100 * block.part:.1f} % of its lines, {wanted:.0f} % are wanted")
        for line in block.holes:
            print(f"  {line}  {blocks.text_of(given.root, line)}")
        for file in block.unseen:
            print(f"  {file}: in no build")
    print(f"\ncoverage: {written[1]}, {written[0]}")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
