"""The licence of everything that is installed: ``python -m companion.build.licences``, one line a distribution."""

from __future__ import annotations

import sys
from importlib import metadata

UNKNOWN = "UNKNOWN"


def licence(fields: metadata.PackageMetadata) -> str:
    """What the metadata of a distribution say: its expression, its classifiers, or the first line of its text."""
    if "License-Expression" in fields:
        return fields["License-Expression"]
    prefix = "License :: "
    classifiers = [line.split(" :: ")[-1] for line in fields.get_all("Classifier") or [] if line.startswith(prefix)]
    named = [name for name in classifiers if name != "OSI Approved"]
    text = "\n".join(fields.get_all("License") or []).strip().splitlines()
    return ", ".join(named) or (text[0][:60] if text else UNKNOWN)


def main() -> int:
    """Print the table; the exit code is 1 when a licence is unknown."""
    found = sorted((dist.metadata["Name"], dist.version, licence(dist.metadata)) for dist in metadata.distributions())
    for name, version, words in found:
        print(f"{name:<34} {version:<14} {words}")
    return int(any(words == UNKNOWN for _, _, words in found))


if __name__ == "__main__":
    sys.exit(main())
