"""What builds the book: dependencies, execution, rendering, checks. A change here executes nothing."""

import sys

# jsonschema imports it if it can: a grammar of addresses that takes a second to make, and no schema here asks for one.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
