# SPDX-License-Identifier: Apache-2.0
"""The report: every picture has its PNG, CSV, command and marks; the page needs no other file."""

import csv
import re

import pytest

from instinfer.perf.report import page
from instinfer.perf.report.pictures import pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("report")
    page.write(found)
    return found


def test_every_picture_has_its_files(folder):
    text = (folder / "index.html").read_text()
    for picture in pictures():
        assert (folder / f"{picture.name}.png").read_bytes().startswith(b"\x89PNG")
        rows = list(csv.DictReader((folder / f"{picture.name}.csv").open()))
        assert len(rows) == len(picture.rows())
        assert picture.command.split(" SYSTEM")[0] in text
        assert picture.marks in text


def test_the_page_stands_alone(folder):
    text = (folder / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count("data:image/png;base64,") == len(pictures())
    assert "times FlexGen" in text


def test_the_page_is_the_same_again(folder, tmp_path):
    page.write(tmp_path)
    for path in folder.glob("*.csv"):
        assert path.read_text() == (tmp_path / path.name).read_text()
