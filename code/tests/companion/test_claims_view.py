"""The claims on rendered pages: true links, dead ones fail, the page of claims is complete without a script."""

import json
import re
import subprocess
import sys

import nbformat
import pytest
from companion.build import claims_view
from companion.build.claims_table import ABSTRACT, claims_of
from companion.build.paths import BOOK
from companion.chapter.claims import MIME, STATUSES
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from small_book import make

CONF = """
extensions = ["myst_nb", "sphinx_proof", "sphinxcontrib.bibtex", "companion.build.claims_view"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
suppress_warnings = ["mystnb.unknown_mime_type"]
html_theme = "basic"
html_static_path = ["_static"]
numfig = True
companion_claims = {claims!r}
"""
THEOREMS = "\n".join(
    f"```{{prf:theorem}} T\n:label: {label}\nIt holds.\n```\n" for sentence in ABSTRACT for label in sentence.theorems
)
MODEL = f"# Model\n\n```{{prf:theorem}} Edge\n:label: thm-edge\nIt holds.\n```\n\n{THEOREMS}\n```{{figure}} a.svg\n:name: fig-a\nA curve.\n```\n"
PAGE = "# Claims\n\n{claims-count}`all`, {claims-count}`bound` bounds, {claims-count}`loose` loose\n\n" + "".join(
    f"```{{claims-{name}}}\n```\n\n" for name in ("abstract", "summary", "statuses", "table")
)
LANGUAGE = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
INDEX = "# Book\n\n```{toctree}\nbook/model\nbook/chapter\nbook/claims\n```\n\n```{bibliography}\n```\n"
GOOD = (
    make(id="First-below-L", figure="fig-a", detail="part $2$", statement="$a<b$ & `code`"),
    make(id="second", source="neighbour", citation="wu2023implicit", theorem=None, relation="at most", measured=9.0),
    make(id="third", source="abstract", abstract="direction", theorem=None),
    make(id="fourth", theorem="thm-global", relation="at least", measured=9.5, loose="for $x$ only"),
)


def build(tmp_path, *claims, page=PAGE):
    """Render a little book with these claims, warnings as errors; returns the log and what reads a page's HTML."""
    for name, text in (("index", INDEX), ("book/model", MODEL), ("book/claims", page)):
        path = tmp_path / "source" / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "source" / "book" / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "source" / "_static").mkdir(exist_ok=True)
    (tmp_path / "source" / "_static" / "claims.js").write_text("")
    (tmp_path / "source" / "references.bib").write_text((BOOK / "references.bib").read_text())
    outputs = [new_output("display_data", {MIME: item.as_dict(), "text/plain": "plain"}) for item in claims]
    book = new_notebook(cells=[new_markdown_cell("# Chapter"), new_code_cell("1", outputs=outputs)], metadata=LANGUAGE)
    nbformat.write(book, tmp_path / "source" / "book" / "chapter.ipynb")
    rows = [row | {"page": "book/chapter", "title": "Chapter"} for row in claims_of(book)]
    (tmp_path / "claims.json").write_text(json.dumps(rows))
    (tmp_path / "source" / "conf.py").write_text(CONF.format(claims=str(tmp_path / "claims.json")))
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run([*command, tmp_path / "source", tmp_path / "out"], capture_output=True, text=True)
    return done.stderr, lambda name: (tmp_path / "out" / f"{name}.html").read_text()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The rendered book of the good claims."""
    return build(tmp_path_factory.mktemp("sound"), *GOOD)


def test_every_link_of_a_claim_leads_somewhere(sound):
    log, page = sound
    assert log == ""
    chapter, table = page("book/chapter"), page("book/claims")
    for link in ("model.html#thm-edge", "../index.html#id", "claims.html#row-First-below-L"):
        assert f'href="{link}' in chapter
    for link in ("chapter.html#claim-First-below-L", "model.html#fig-a", "model.html#thm-global", "chapter.html"):
        assert f'href="{link}"' in table
    assert 'id="claim-First-below-L"' in chapter
    assert 'id="row-First-below-L"' in table
    assert "plain" not in chapter  # the line of text is for JupyterLab
    assert r"\(a&lt;b\)" in chapter
    assert '<span class="pre">code</span>' in chapter
    assert "Wu <em>et al.</em>" in chapter or "Wu" in chapter


def test_the_table_is_complete_and_tells_the_script_what_to_filter(sound):
    _, page = sound
    table = page("book/claims")
    assert "3 of 4 claims hold, 2 bounds, 1 loose" in table
    rows = re.findall(r"<tr [^>]*data-id[^>]*>", table)
    assert len(rows) == len(GOOD)
    for row, item in zip(rows, GOOD, strict=True):
        for name in ("id", "source", "kind", "status"):
            assert f'data-{name}="{getattr(item, name)}"' in row
        assert 'data-chapter="Chapter"' in row
    assert [re.search('data-bound="(.*?)"', row)[1] for row in rows] == ["no bound", "tight", "no bound", "loose"]
    assert re.search(r"<b>loose</b>: for .*?x", table)
    assert '<span class="margin margin-loose" style="--used: 0.200">20 %</span>' in table
    assert table.count("claims.js") == 1
    assert "claims.js" not in page("book/chapter")


def test_the_state_of_the_abstract_counts_its_claims_and_names_its_theorems(sound):
    _, page = sound
    state = page("book/claims").partition('class="sentences')[2].partition("<table")[0]
    assert state.count("1 of 1 claims hold") == 2  # direction, by the abstract, and the theorem of global convergence
    assert state.count("not checked") == len(ABSTRACT) - 2
    assert 'href="chapter.html#claim-third"' in state
    assert all(f"#{label}" in state for sentence in ABSTRACT for label in sentence.theorems)
    assert 'href="#chapter-chapter"' in state


def test_statements_are_listed_by_what_supports_them(tmp_path):
    against = make(
        id="against", source="abstract", abstract="direction", theorem=None, status="measured", confirms=False
    )
    claims = (*GOOD, against, make(id="guess", theorem=None, status="conjectured", statement="It may be $y$"))
    log, page = build(tmp_path, *claims)
    assert log == ""
    state = page("book/claims").partition('class="sentences')[2].partition("<table")[0]
    assert "2 of 2 claims hold; not found in 1 of them" in state
    assert state.count("Not confirmed: ") == 1
    table = page("book/claims").partition("claims-statuses")[2].partition("</table>")[0]
    head, _, body = table.partition("<tbody")
    assert [head.index(status) for status in STATUSES] == sorted(head.index(status) for status in STATUSES)
    cells = body.split("<td")[2:]
    assert len(cells) == len(STATUSES)
    for cell, status in zip(cells, STATUSES, strict=True):
        ids = [item.id for item in claims if item.status == status]
        assert cell.count("<li") == len(ids)
        assert f"{len(ids)} claim{'s' if len(ids) > 1 else ''}" in cell
        assert all(f"chapter.html#claim-{id}" in cell for id in ids)
    assert "model.html#thm-global" in cells[0]
    assert "thm-" not in cells[1] + cells[2]


def test_a_claim_that_fails_is_marked(sound):
    _, page = sound
    assert page("book/chapter").count("claim claim-fails") == 1
    assert 'title="does not hold">✗' in page("book/chapter").replace("\n", "")
    assert 'class="no"' in page("book/claims")


def test_each_dead_reference_and_unknown_word_fails(tmp_path):
    dead = ({"theorem": "thm-gone"}, {"citation": "nobody1900"}, {"figure": "fig-gone"})
    claims = [make(id=f"dead-{k}", **changes) for k, changes in enumerate(dead)]
    log, _ = build(tmp_path, *claims, page=PAGE + "{claims-count}`guesses`\n")
    assert "label 'thm-gone' not found" in log
    assert "nobody1900" in log
    assert "fig-gone" in log
    assert "claims-count 'guesses' must be one of all, abstract" in log


@pytest.mark.parametrize(
    ("words", "shown"), [("a $x$ `c`.", "a x c."), ("$x$", "x"), ("", ""), ("100 $ more", "100 $ more")]
)
def test_prose_is_text_mathematics_and_code(words, shown):
    assert "".join(node.astext() for node in claims_view.prose(words)) == shown


def test_other_data_than_claims_is_left_to_others():
    class Data:
        mime_type, content = "text/plain", ""

    assert claims_view.ClaimPlugin.handle_mime(None, Data, False) is None
