# SPDX-License-Identifier: Apache-2.0
"""The command line. One module per subcommand, imported when it is called; `main` holds the list."""
