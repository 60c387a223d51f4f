"""The command ``dbt`` on scripted models: the product's own plugin with patched backends.

python -m tests.integration.dbt_scripted build --project-dir DIR ...
"""

from __future__ import annotations

from dbt.cli.main import cli

from tests.daemon.serve_scripted import patch

if __name__ == "__main__":
    patch()
    cli()
