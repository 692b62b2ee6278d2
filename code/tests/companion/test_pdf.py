"""The print of a small book: contents with true page numbers, references inside, nothing cut, an outline."""

import shutil

import pytest
from companion.build import pdf
from companion.build.browser import NoBrowser, executable
from companion.build.paths import BOOK
from pypdf import PdfReader

TOC = "root: book/index\nparts:\n- caption: Part\n  chapters:\n  - file: book/one\n  - file: book/sub/two\n"
PAGE = '<!DOCTYPE html><html><head></head><body><article class="bd-article"><section id="{id}"><h1>{title}<a class="headerlink" href="#{id}">#</a></h1>{body}</section></article></body></html>'
PAGES = {
    "book/index": '<p><a href="sub/two.html#far">there</a> <a href="one.html">page</a> <a href="../claims.json">file</a> <a href="https://example.org/">out</a></p>',
    "book/one": '<details class="hide"><pre>FOLDED</pre></details><details><p>PROOF</p></details><div id="token-explorer" hidden>X<button>b</button></div>'
    '<table><tr><td><code style="white-space: nowrap">' + "wide " * 25 + "</code></td></tr></table>",
    "book/sub/two": "<p>line</p>" * 120 + '<section id="far"><h2>Far below</h2><p>END</p></section>',
}


@pytest.fixture
def built(tmp_path):
    """A built book of three pages; its root and the folder of its pages."""
    (tmp_path / "_toc.yml").write_text(TOC)
    for name, body in PAGES.items():
        path = tmp_path / "html" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.format(id="start", title=name.split("/")[-1].title(), body=body))
    (tmp_path / "html" / "_static").mkdir()
    shutil.copyfile(BOOK / "_static" / "print.css", tmp_path / "html" / "_static" / "print.css")
    return tmp_path, tmp_path / "html"


def test_pages_become_parts_of_one_document(built):
    root, html = built
    names = set(pdf.parts(root))
    front, one, two = (pdf.chapter(html, name, part, names) for name, part in pdf.parts(root).items())
    assert [link.get("href") for link in front.article.select("a")] == [
        "#sub-two--far",
        "#page-one",
        "https://example.org/",
    ]
    text = one.article.get_text()
    assert "FOLDED" not in text
    assert "PROOF" in text
    assert pdf.NOT_HERE in text
    assert one.article.details["open"] == ""
    assert (two.part, two.sections) == ("Part", [("sub-two--far", "Far below")])


def test_without_pages_it_says_what_to_do(tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC)
    with pytest.raises(pdf.NotPrinted, match="make book"):
        pdf.print_book(tmp_path / "html", tmp_path / "a.pdf", tmp_path)


@pytest.fixture
def _browser():
    try:
        executable()
    except NoBrowser as reason:
        pytest.skip(str(reason))


@pytest.mark.usefixtures("_browser")
def test_what_cannot_be_made_small_enough_is_refused(built):
    root, html = built
    page = html / "book" / "one.html"
    page.write_text(page.read_text().replace("wide " * 25, "wide " * 90))
    with pytest.raises(pdf.NotPrinted, match=r"wider than the paper:\n  page-one: TABLE wide wide"):
        pdf.print_book(html, root / "book.pdf", root)
    assert not (html / "print.html").exists()


@pytest.mark.usefixtures("_browser")
def test_the_contents_name_the_pages_on_which_chapters_begin(built):
    root, html = built
    target = root / "book.pdf"
    sheets = pdf.print_book(html, target, root)
    reader = PdfReader(target)
    texts = [page.extract_text() for page in reader.pages]
    assert sheets == len(texts) >= 6
    found = pdf.numbers(target)
    assert "Far below" in texts[found["sub-two--far"] - 1]
    assert found["sub-two--far"] > found["page-sub-two"]
    assert f"Far below{found['sub-two--far']}" in texts[1].replace(" ", "").replace("\n", "").replace(
        "Farbelow", "Far below"
    )
    front, part, (one, two, (far,)) = reader.outline
    assert [entry["/Title"] for entry in (front, part, one, two, far)] == ["Index", "Part", "One", "Two", "Far below"]
    assert reader.get_destination_page_number(far) + 1 == found["sub-two--far"]
    assert reader.metadata.title == "Index"
    assert not (html / "print.html").exists()
