"""The check of the built site: one page for each thing that may be wrong, and one on which all is well."""

import pytest
from companion.build import render
from companion.build.check_site import check
from companion.build.paths import ROOT

SOUND = """<html><head><link rel="stylesheet" href="_static/a.css"><script src="_static/a.js"></script></head>
<body><a href="#here">x</a> <a href="sub/other.html#there">y</a> <a href="https://example.org">outside is fine</a>
<article><h1 id="here">t</h1><figure id="fig-a"><img src="a.svg" alt="A falling curve"><figcaption>It falls.</figcaption>
</figure></article></body></html>"""


@pytest.fixture
def site(tmp_path):
    """A sound site, with `body` put at the end of its first page."""

    def make(body="", css="body {}"):
        for folder in ("sub", "_static"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "index.html").write_text(SOUND.replace("</article>", f"{body}</article>"))
        (tmp_path / "sub" / "other.html").write_text(
            '<article><p id="there"><a href="../index.html">up</a></p></article>'
        )
        (tmp_path / "_static" / "a.css").write_text(css)
        for name in ("_static/a.js", "a.svg"):
            (tmp_path / name).write_text("")
        return [str(problem) for problem in check(tmp_path)]

    return make


def test_a_sound_site_has_no_problems(site):
    assert site() == []


FIGURE = "<figure><img src='a.svg' alt='{}'><figcaption>{}</figcaption></figure>"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="gone.html">z</a>', "dead link gone.html"),
        ('<a href="#nowhere">z</a>', "dead anchor #nowhere"),
        ('<a href="sub/other.html#gone">z</a>', "dead anchor sub/other.html#gone"),
        ('<script src="https://cdn.example/x.js"></script>', "loads from outside https://cdn.example/x.js"),
        ('<script src="//cdn.example/x.js"></script>', "loads from outside //cdn.example/x.js"),
        ('<link rel="stylesheet" href="http://x.example/a.css">', "loads from outside http://x.example/a.css"),
        ("<style>@import 'https://x.example/f.css';</style>", "loads from outside https://x.example/f.css"),
        ('<p style="background: url(https://x.example/p.png)"></p>', "loads from outside https://x.example/p.png"),
        ('<script src="_static/gone.js"></script>', "loads a missing file _static/gone.js"),
        (FIGURE.format("", "Words."), "image without alt text a.svg"),
        (FIGURE.format("a.svg", "Words."), "image without alt text a.svg"),
        (FIGURE.format("../_images/a.svg", "Words."), "image without alt text a.svg"),
        (FIGURE.format("A curve", " "), "image without caption a.svg"),
        ("<img src='a.svg' alt='A curve'>", "image without caption a.svg"),
        ("<video src='a.svg' poster='//cdn.example/p.png'></video>", "loads from outside //cdn.example/p.png"),
        ('<a href="file:///tmp/x.html">z</a>', "link into this machine file:///tmp/x.html"),
        ("<p>reaches {glue:text}`error`.</p>", "role left as text: {glue:text}`error`."),
        ("<p>In {numref}<code>fig-a</code></p>", "role left as text: {numref}"),
        ("<p>where $x^2$ is large</p>", "mathematics left as text: $x^2$"),
        (r"<p>where \(x\)</p>", r"mathematics left as text: \(x\)"),
        (r"<td>the \lambda of</td>", r"mathematics left as text: \lambda"),
        ('<p>is <span class="pasted-text">nan</span></p>', "no number in a sentence: nan"),
        ('<p>is <span class="pasted-text"></span></p>', "no number in a sentence: nothing"),
        ('<p id="twice"></p><p id="twice"></p>', "anchor given twice: twice"),
        ('<div class="output traceback highlight"><pre>x</pre></div>', "a cell shows a traceback"),
        ('<div class="output stderr"><pre>x</pre></div>', "a cell shows a stderr"),
        (f"<p>{ROOT}/book</p>", f"names a folder of this machine: {ROOT}"),
    ],
)
def test_each_problem_is_found(site, body, problem):
    assert site(body) == [f"  index.html: {problem}"]


@pytest.mark.parametrize(
    "body",
    [
        r'<span class="math notranslate">\(\lambda_k\)</span>',
        r'<div class="math notranslate nohighlight">\[x\]</div>',
        "<code>{numref}`fig-a` and $x$</code>",
        "<pre>put(r'$x$')</pre>",
        "<p>It costs $5.</p>",
        '<p>is <span class="pasted-text">0.5</span> and no nan</p>',
        '<script>"\\(x\\)"</script>',
    ],
)
def test_what_is_rendered_or_code_is_no_problem(site, body):
    assert site(body) == []


def test_style_sheets_are_read_too(site):
    (problem,) = site(css="@font-face { src: url('https://fonts.example/f.woff') }")
    assert problem == "  _static/a.css: loads from outside https://fonts.example/f.woff"


def test_no_pages_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pages"):
        check(tmp_path)


def test_the_swap_replaces_the_pages_whole(tmp_path):
    for name, text in (("html", "old"), ("new", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{text}.html").write_text(text)
    render.swap(tmp_path / "new", tmp_path / "html")
    assert [path.name for path in tmp_path.rglob("*")] == ["html", "new.html"]


def test_old_pages_stay_when_the_new_ones_are_bad(tmp_path, monkeypatch, capsys):
    old, new = tmp_path / "html", tmp_path / "new"
    for folder, text in ((old, "<p>old</p>"), (new, '<a href="gone.html">z</a>')):
        folder.mkdir()
        (folder / "index.html").write_text(text)
    monkeypatch.setattr(render, "build", lambda: new)
    monkeypatch.setattr(render, "HTML", old)
    assert render.main() == 1
    assert "dead link gone.html" in capsys.readouterr().err
    assert (old / "index.html").read_text() == "<p>old</p>"


def test_complaints_are_picked_out_of_the_log():
    log = "reading\n\x1b[91m/book/a.ipynb:3: WARNING: undefined label\x1b[0m\nwriting"
    assert render.complaints(log) == "/book/a.ipynb:3: WARNING: undefined label"
    assert render.complaints("one\ntwo") == "one\ntwo"
