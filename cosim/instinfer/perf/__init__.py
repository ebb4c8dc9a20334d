# SPDX-License-Identifier: Apache-2.0
"""Performance model: drives whose constants are fitted to RTL benches, and whole systems around them.

Three marks go with every number (`provenance.Mark`): measured in RTL, modelled, from the paper.
"""
