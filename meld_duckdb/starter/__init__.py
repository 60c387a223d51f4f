"""The starter: experts that every installation has, for tasks that a workspace has none of yet.

``adapters/`` holds one directory per task, an adapter of the language model with its card, as in a
workspace; ``starter.json`` says what they were trained on, for how long, and what they are worth.
``make starter`` writes all of it from the training splits of public data sets.
"""

from __future__ import annotations

from pathlib import Path

from meld_duckdb.errors import ConfigError

BUILT_IN, NONE = "built-in", "none"

ADAPTERS = "adapters"
"""Name of the directory of adapters."""


def starter_adapters(setting: str) -> Path | None:
    """The directory of the starter's adapters, which need not be there; None for no starter.

    Args:
        setting: ``"built-in"``, ``"none"`` or a directory like this package.

    Raises:
        ConfigError: There is no such directory.
    """
    if setting == NONE:
        return None
    folder = Path(__file__).parent if setting == BUILT_IN else Path(setting).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"setting 'starter' is {setting!r}, expected '{BUILT_IN}', '{NONE}' or a directory",
            hint="leave the setting out for the experts of the package",
        )
    return folder / ADAPTERS
