"""References by number at a fair price: Sphinx reads the whole page of the target anew for each, here it is kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import ExtensionMetadata

PAGES = 8  # references lead to their own page and to a few others


class Shelf:
    """Sphinx's environment with the pages read last; for who looks at them and changes nothing."""

    def __init__(self, env: BuildEnvironment):
        self._env = env
        self.get_doctree = lru_cache(PAGES)(env.get_doctree)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class Numbered(StandardDomain):
    """Sphinx's standard domain, in which references by number share the pages they look at."""

    def resolve_xref(
        self,
        env: BuildEnvironment,
        fromdocname: str,
        builder: Builder,
        typ: str,
        target: str,
        node: pending_xref,
        contnode: nodes.Element,
    ) -> nodes.Element | None:
        """Sphinx's own, given the shelf."""
        given: Any = self._shelf(env) if typ == "numref" else env
        return super().resolve_xref(given, fromdocname, builder, typ, target, node, contnode)

    def _shelf(self, env: BuildEnvironment) -> Shelf:
        if "shelf" not in self.__dict__:
            self.shelf = Shelf(env)
        return self.shelf


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.add_domain(Numbered, override=True)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
