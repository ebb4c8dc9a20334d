# SPDX-License-Identifier: Apache-2.0
"""Fitted constants against committed benches of the RTL, and that a wrong model is seen."""

import dataclasses

import pytest

from instinfer.perf.drive import calibration
from instinfer.perf.drive.cycles import fitted


@pytest.fixture(scope="module")
def points():
    return calibration.measured()


def test_held_out_points_are_within_five_percent(points):
    found = calibration.report(fitted(), points)
    wrong = [row for row in found["rows"] if row["held_out"] and abs(row["error_percent"]) > 5]
    assert wrong == []
    assert found["held_out_points"] >= 15
    assert found["within_five_percent"]


def test_all_kinds_and_both_presets_are_there(points):
    names = {point.name.split("-")[1].partition(":")[0] for point in points}
    assert {"dense", "sketch", "sparf", "write"} <= names
    assert all(point.command.startswith("instinfer bench") for point in points)


def test_committed_constants_are_what_the_fit_finds(points):
    found = calibration.fit(points)
    for point in points:
        assert point.predicted(found) == pytest.approx(point.predicted(fitted()), rel=0.01)


def test_a_wrong_array_time_shows(points):
    """The errors are no artefact: with half of tR in the model, held-out points are wrong by far more."""
    def halved(point):
        timing = dataclasses.replace(point.config.timing, tPROG=point.config.timing.tPROG // 3,
                                     tR=point.config.timing.tR // 3)
        return dataclasses.replace(point, config=dataclasses.replace(point.config, timing=timing))

    found = calibration.report(fitted(), [halved(point) for point in points])
    assert found["worst_held_out_error_percent"] > 10
