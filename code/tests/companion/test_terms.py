"""Words of the glossary become references where a chapter first uses them in its prose, and nowhere else."""

from types import SimpleNamespace

from companion.build import terms
from docutils import nodes
from sphinx.addnodes import pending_xref


def page(*content):
    """A document whose only section holds `content`, after the terms were linked."""
    section = nodes.section("", *content)
    document = nodes.document(None, None, "", section)
    env = SimpleNamespace(docname="book/model", found_docs={"book/glossary", "book/model"})
    terms.link_terms(SimpleNamespace(env=env), document)
    return document


def targets(document):
    return [node["reftarget"] for node in document.findall(pending_xref)]


def test_the_terms_are_those_of_the_glossary_but_for_everyday_words():
    assert {"token", "support vector", "condition (A)", "edge of stability"} <= set(terms.terms())
    assert not terms.EVERYDAY & set(terms.terms())


def test_the_first_use_is_linked_once_with_its_own_words():
    document = page(
        nodes.paragraph("", "Optimal tokens beat a Token. Tokens and optimal tokens."), nodes.paragraph("", "A token.")
    )
    assert targets(document) == ["optimal token", "token"]
    assert document.astext() == "Optimal tokens beat a Token. Tokens and optimal tokens.\n\nA token."
    assert [node.astext() for node in document.findall(pending_xref)] == ["Optimal tokens", "Token"]


def test_parts_of_words_headings_emphasis_and_lists_are_left_alone():
    quoted = nodes.paragraph("", "", nodes.emphasis("", "token"), nodes.Text(" tokenize, non-token"))
    listed = nodes.bullet_list("", nodes.list_item("", nodes.paragraph("", "token")))
    assert targets(page(nodes.title("", "The token"), quoted, listed)) == []


def test_what_the_chapter_links_itself_is_not_linked_again():
    own = pending_xref("", nodes.inline("", "token"), reftype="term", reftarget="token", refdomain="std")
    document = page(nodes.paragraph("", "", own, nodes.Text(" and token, logit")))
    assert targets(document) == ["token", "logit"]
