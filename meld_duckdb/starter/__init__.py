"""The starter: experts that every installation has, for tables nobody has labelled yet.

``experts/`` holds one directory per expert of tier 1, as in a workspace, ``adapters/`` one per
task: the adapter of the language model that its experts begin with; ``starter.json`` says what they
were trained on. ``make starter`` writes all of it from the training splits of public data sets.
"""

from __future__ import annotations

from pathlib import Path

from meld_duckdb.errors import ConfigError

BUILT_IN, NONE = "built-in", "none"


def starter_experts(setting: str) -> Path | None:
    """The directory of the starter's experts of tier 1; see `starter_folder`."""
    folder = starter_folder(setting)
    return None if folder is None else folder / "experts"


def starter_folder(setting: str) -> Path | None:
    """The directory of the starter; None for no starter.

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
    return folder
