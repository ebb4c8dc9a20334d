# SPDX-License-Identifier: Apache-2.0
"""Many points: drawn at random or by axes, computed here or on a Dask cluster, kept as Parquet."""
