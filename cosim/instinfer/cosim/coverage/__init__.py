# SPDX-License-Identifier: Apache-2.0
"""What the tests reached: lines and toggles of the RTL under cocotb, crosses of what the driver asked for.

`collect` keeps what runs leave behind; `points` turns Verilator's points into lines of Python; `blocks` sums
them up and takes the committed exceptions off; `crosses` says which combinations of commands, statuses,
policies, borders and faults must be seen; `page` writes the report; ``python -m instinfer.cosim.coverage``
is all of it.
"""
