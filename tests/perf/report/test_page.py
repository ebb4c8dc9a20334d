# SPDX-License-Identifier: Apache-2.0
"""The report: every picture has its PNG, CSV, command and marks; the page needs no other file."""

import csv
import re

import pytest

from instinfer.perf.report import page
from instinfer.perf.report.pictures import pictures

ALL = pictures()
FEW = [picture for picture in ALL if picture.name in ("paper", "calibration", "endurance")]


def check(folder, chosen):
    """Files of a written report against its pictures."""
    text = (folder / "index.html").read_text()
    for picture in chosen:
        assert (folder / f"{picture.name}.png").read_bytes().startswith(b"\x89PNG")
        rows = list(csv.DictReader((folder / f"{picture.name}.csv").open()))
        assert len(rows) == len(picture.rows()) > 3
        assert picture.command.split(" SYSTEM")[0] in text
        assert picture.marks in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count("data:image/png;base64,") == len(chosen)
    assert "times FlexGen" in text


def test_some_pictures(tmp_path):
    page.write(tmp_path, FEW)
    check(tmp_path, FEW)


@pytest.mark.soak
def test_all_pictures_and_the_same_again(tmp_path):
    for name in ("one", "two"):
        page.write(tmp_path / name)
        check(tmp_path / name, ALL)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_names_are_different_and_commands_are_ours():
    assert len({picture.name for picture in ALL}) == len(ALL)
    assert all(picture.command.startswith("instinfer perf ") for picture in ALL)
