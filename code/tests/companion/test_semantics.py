"""The folded code of a cell is named by what it makes; a picture becomes a link; wrong roles are put right."""

from types import SimpleNamespace

from companion.build import semantics
from companion.build.claims_view import html
from docutils import nodes


def cell(*content):
    return nodes.container("", nodes.container("", *content), nb_element="cell_code")


def test_folded_code_is_called_by_what_it_makes():
    figure = nodes.figure("", nodes.image(uri="a.svg"), ids=["fig-a"])
    claim = html("div", "x", css="claim claim-holds")
    assert semantics.name_of_code(cell(figure), {"fig-a": (9,)}) == "Code of Fig. 9"
    assert semantics.name_of_code(cell(figure), {}) == "Code"
    assert semantics.name_of_code(cell(claim), {}) == "Code of the claim"
    assert semantics.name_of_code(cell(claim, claim.deepcopy()), {}) == "Code of the claims"
    assert semantics.name_of_code(cell(nodes.paragraph("", "x")), {}) == "Code"


def test_a_picture_opens_its_file_once():
    figure = nodes.figure("", nodes.image(uri="a.svg"), nodes.caption("", "It falls."))
    semantics.opens(figure, "../figures/fig-a.svg")
    semantics.opens(figure, "../figures/fig-a.svg")
    link = figure[0]
    assert isinstance(link, nodes.reference)
    assert link["refuri"] == "../figures/fig-a.svg"
    assert isinstance(link[0], nodes.image)
    assert isinstance(figure[1], nodes.caption)


def test_entries_of_a_bibliography_are_items(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<div role="list"><div class="citation" role="doc-biblioentry">x</div></div>')
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=str(tmp_path))
    semantics.mend(app, None)
    assert page.read_text() == '<div role="list"><div class="citation" role="listitem">x</div></div>'
