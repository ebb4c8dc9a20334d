# SPDX-License-Identifier: Apache-2.0
"""Inputs for other people's simulators: MQSim, LLMServingSim, FlexGen's cost model."""
