"""The machinery of the book: `chapter` is what a chapter imports, `build` is what builds."""
