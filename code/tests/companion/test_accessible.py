"""The check of accessibility finds what is wrong, in the view in which it is wrong, and nothing on a sound page."""

import pytest
from companion.build import accessible
from companion.build.browser import NoBrowser, executable

SOUND = """<!DOCTYPE html><html lang="en"><head><title>t</title><meta name="viewport" content="width=device-width">
<style>body { background: #fff; color: #111; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #eee; } .dim { color: #555; } }
.wide { width: 600px; overflow-x: auto; } @media (max-width: 42rem) { .wide { width: 300px; } }</style></head>
<body><main><h1>Heading</h1><p>Words.</p>BODY</main></body></html>"""


@pytest.fixture(scope="module", autouse=True)
def _browser():
    try:
        executable()
    except NoBrowser as reason:
        pytest.skip(str(reason))


FAULTS = {
    "pale": ('<p style="color: #bbb">Pale.</p>', "color-contrast", "light"),
    "dim": ('<p class="dim">Dim.</p>', "color-contrast", "dark"),
    "cut": ('<p class="wide" style="white-space: nowrap">' + "words " * 12, "scrollable-region-focusable", "phone"),
    "label": ('<button aria-label="Other">Words</button>', "label-content-name-mismatch", "light"),
    "image": ('<img src="data:,">', "image-alt", "light"),
}


def test_what_is_wrong_is_found_where_it_is_wrong(tmp_path, capsys):
    for name, (body, *_) in FAULTS.items():
        (tmp_path / f"{name}.html").write_text(SOUND.replace("BODY", body))
    (tmp_path / "sound.html").write_text(SOUND.replace("BODY", ""))
    assert accessible.main([str(tmp_path)]) == 1
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    for name, (_, rule, view) in FAULTS.items():
        assert any(line.startswith(f"  {name}.html ({view}): {rule}") for line in lines), name
    assert "sound.html" not in shown.err
    assert "6 pages" in shown.out


def test_a_sound_page_passes(tmp_path, capsys):
    (tmp_path / "sound.html").write_text(SOUND.replace("BODY", ""))
    assert accessible.main([str(tmp_path)]) == 0
    assert "1 pages, 0 serious or critical violations" in capsys.readouterr().out


def test_without_pages_it_says_what_to_do(tmp_path, capsys):
    assert accessible.main([str(tmp_path)]) == 1
    assert "make book" in capsys.readouterr().err
