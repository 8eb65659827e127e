"""``python -m scepsy.cli.schemas FOLDER`` writes the schemas."""

import sys
from pathlib import Path

from scepsy.cli.schemas import write_schemas

for written in write_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schemas/commands")):
    print(written)
