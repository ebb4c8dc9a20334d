# SPDX-License-Identifier: Apache-2.0
"""The error every validated parameter raises: it names the value, the limit and the cure."""


class ConfigError(ValueError):
    """A parameter is outside its limit.

    The message has three parts: what was given, what is allowed, what to do about it.
    """

    def __init__(self, name: str, value: object, limit: str, cure: str):
        self.name = name
        self.value = value
        self.limit = limit
        self.cure = cure
        super().__init__(f"{name} = {value!r} is not possible: {limit}. {cure}")


def require(ok: bool, name: str, value: object, limit: str, cure: str) -> None:
    """Raise :class:`ConfigError` unless ``ok``."""
    if not ok:
        raise ConfigError(name, value, limit, cure)
