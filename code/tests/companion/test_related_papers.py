"""The list of related papers is made of their pages, and refuses a page that lacks a part."""

import pytest
from companion.build.related_papers import PageIsIncomplete, _plain, items, related_papers
from nbformat import writes
from nbformat.v4 import new_markdown_cell, new_notebook

PAGE = """# A paper

After {cite}`wu2023implicit`; see {prf:ref}`the theorem <thm-own>`, {prf:ref}`thm-book` and {prf:ref}`thm-book`.

```{prf:theorem} Here
:label: thm-own
It holds.
```

## What this page does not test

Noise; the sets $\\{a; b\\}$ (small; large).

## Source

{cite}`wu2023implicit`
"""


def book(folder, page):
    """A book of one chapter with a theorem and one related paper."""
    (folder / "_toc.yml").write_text("root: book/index\nchapters:\n- file: book/neighbours/paper\n")
    (folder / "book" / "neighbours").mkdir(parents=True)
    (folder / "book" / "index.md").write_text("# Book\n\n```{prf:theorem} There\n:label: thm-book\nIt holds.\n```\n")
    (folder / "book" / "neighbours" / "paper.ipynb").write_text(writes(new_notebook(cells=[new_markdown_cell(page)])))
    return folder


def test_reads_the_page(tmp_path):
    (paper,) = related_papers(book(tmp_path, PAGE))
    assert (paper.page, paper.title, paper.paper) == ("book/neighbours/paper", "A paper", "wu2023implicit")
    assert paper.theorems == ("thm-book",)
    assert paper.untested == ("Noise", "the sets $\\{a; b\\}$ (small; large)")
    rows = [{"page": paper.page}, {"page": "book/index"}]
    assert paper.of(rows) == rows[:1]


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("{cite}`wu2023implicit`", "cites no paper"),
        ("{prf:ref}`thm-book`", "no theorem"),
        ("does not test", "lacks its"),
    ],
)
def test_refuses_an_incomplete_page(tmp_path, gone, message):
    with pytest.raises(PageIsIncomplete, match=message):
        related_papers(book(tmp_path, PAGE.replace(gone, "")))


def test_items_of_a_list():
    assert items("- one;\n- two, (a; b);\n") == ["one", "two, (a; b)"]


def test_every_related_paper_of_this_book():
    from companion.build.paths import ROOT

    pages = related_papers()
    assert len({paper.page for paper in pages}) == len(pages) == len(list(ROOT.glob("book/neighbours/*.ipynb")))
    for paper in pages:
        keys = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
        assert f"{{{paper.paper}," in keys


def test_roles_become_their_words():
    text = "the {doc}`chapter <../x>`, {prf:ref}`thm-edge`, **bold** and {cite}`key2020x`"
    assert "".join(node.astext() for node in _plain(text)) == "the chapter, Edge of stability, bold and key2020x"
