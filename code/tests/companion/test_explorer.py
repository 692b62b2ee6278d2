"""The explorer computes in the browser what the package computes: trajectories, attention, W_mm, e_inf, thresholds."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import tokenmargin as tm
from companion.build.paths import BOOK
from tokenmargin.errors import AssumptionError, InfeasibleSVMError
from tokenmargin.theory.residual import polyak_threshold

SCRIPTS = BOOK / "_static" / "explorer"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
STEPS = 200
RUN = """
const { engine, svm } = globalThis.Explorer;
const result = STATES.map((state) => {
  const problem = engine.prepare(state);
  const solved = svm.tokenSVM(problem);
  let W = state.W0;
  for (let t = 0; t < state.steps; t++) W = engine.step(problem, W, state).W;
  const attention = problem.scores.map((_, i) => engine.logAttention(problem, W, i));
  return { W, attention, svm: solved, constants: svm.constants(problem, solved, state.loss) };
});
document.body.textContent = "RESULT" + JSON.stringify(result) + "END";
"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def shown(browser, page, folder):
    """The document of a page after its scripts have run."""
    command = [
        browser,
        *FLAGS.split(),
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        page,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


def states(count=32):
    """Small problems in the plane with a rule each, and the same for the package."""
    rng = np.random.default_rng(11)
    sizes = {"NGD": 0.1, "GD": 0.7, "Polyak": 0.4}
    rules = {"NGD": tm.NormalizedGD(0.1), "GD": tm.GradientDescent(0.7), "Polyak": tm.Polyak(0.4, cap=1.0)}
    for k in range(count):
        n, T = (2, 3, 3, 1)[k % 4], (3, 2, 3, 4)[k % 4]
        X, z, u = rng.standard_normal((n, T, 2)), rng.standard_normal((n, 2)), rng.standard_normal(2)
        y = np.where(rng.random(n) < 0.5, 1, -1)
        if k % 8 == 6:
            z[:] = z[0]  # one direction W z for all: mostly no W separates
        W0 = rng.standard_normal((2, 2)) * (0.0, 1.0, 5.0)[k % 3]
        rule, loss = list(sizes)[k % 3], ("logistic", "exponential")[k % 2]
        state = {"tokens": X, "queries": z, "labels": y, "decoder": u, "W0": W0.ravel()}
        plain = {name: value.tolist() for name, value in state.items()}
        plain |= {"rule": rule, "size": sizes[rule], "loss": loss, "cap": 1.0, "steps": STEPS}
        yield plain, tm.TokenProblem(X, y, u, queries=z), rules[rule], loss, W0


def test_the_page_computes_what_the_package_computes(browser, tmp_path):
    cases = list(states())
    scripts = "".join(f"<script>{(SCRIPTS / name).read_text()}</script>" for name in ("engine.js", "svm.js"))
    data = f"<script>const STATES = {json.dumps([case[0] for case in cases])};{RUN}</script>"
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><body>{scripts}{data}</body>")
    text = shown(browser, (tmp_path / "page.html").as_uri(), tmp_path)
    results = json.loads(html.unescape(re.search(r"RESULT(.*)END</body>", text, re.DOTALL)[1]))
    compared = solved = constants = 0
    for result, (_, problem, rule, loss, W0) in zip(results, cases, strict=True):
        run, nearby = (tm.train(problem, rule, STEPS, W0=W0 + shift, loss=loss) for shift in (0.0, 1e-14))
        W = run.W().ravel()
        size = np.abs(W).max()
        if np.abs(nearby.W().ravel() - W).max() < 1e-10 * size:  # else chaotic: rounding decides, here as there
            compared += 1
            np.testing.assert_allclose(result["W"], W, rtol=0, atol=1e-8 * size)
            np.testing.assert_allclose(np.exp(result["attention"]), run.attention[-1, :, 0], rtol=0, atol=1e-8)
        try:
            svm = tm.solve_token_svm(problem)
        except InfeasibleSVMError:
            assert not result["svm"]["feasible"]
            assert result["svm"]["residual"] < 1e-12
            continue
        solved += 1
        np.testing.assert_allclose(result["svm"]["W"], svm.W.ravel(), rtol=0, atol=1e-8 * svm.norm)
        try:
            want = [tm.e_inf(problem, svm, loss), tm.stability_threshold(svm), polyak_threshold(svm)]
        except AssumptionError:
            continue
        constants += 1
        np.testing.assert_allclose(
            [result["constants"][name] for name in ("eInf", "hStar", "thetaStar")], want, rtol=1e-8
        )
    assert compared >= 20
    assert solved > 10
    assert constants > 3
    assert solved < len(cases)


def test_each_state_to_begin_with_is_what_its_words_say():
    text = (SCRIPTS / "presets.js").read_text(encoding="utf-8")
    presets = {item["key"]: item["state"] for item in json.loads(text[text.index("= [") + 2 : text.rindex(";")])}
    problems = {
        key: tm.TokenProblem(state["tokens"], state["labels"], state["decoder"], queries=state["queries"])
        for key, state in presets.items()
    }
    start = {key: np.reshape(state["W0"], (2, 2)) for key, state in presets.items()}
    with pytest.raises(InfeasibleSVMError):
        tm.solve_token_svm(problems["infeasible"])
    conditions = tm.conditions(problems["global"])
    assert conditions.equal_scores
    assert conditions.acute
    assert tm.conditions(problems["frozen"]).equal_scores

    def right(key, W0, steps=5000):
        run = tm.train(problems[key], tm.NormalizedGD(0.1), steps, W0=W0)
        return bool((run.selection.ravel() == problems[key].optimal).all())

    assert right("global", start["global"])
    assert not right("runner", None)
    assert not right("frozen", start["frozen"], 20_000)
    assert right("frozen", None)
    edge = tm.stability_threshold(tm.solve_token_svm(problems["period"]))
    assert 1.0 < presets["period"]["size"] / edge < 1.1


def test_the_controls_work(browser, tmp_path):
    """The page's own markup and scripts: it starts, steps, and keeps its state in the address."""
    markup = re.search(r"```\{raw\} html\n(.*?)```", (BOOK / "explorer.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "book").mkdir()
    shutil.copytree(BOOK / "_static", tmp_path / "_static")
    script = """
    window.addEventListener("load", () => {
      const part = (name) => document.querySelector(`[data-part="${name}"]`);
      part("step").click();
      const first = part("numbers").textContent;
      part("reset").click();
      part("play").click();
      setTimeout(() => {
        part("play").click();
        const later = part("numbers").textContent;
        part("preset").value = "infeasible";
        part("preset").dispatchEvent(new Event("change"));
        const words = part("says").textContent;
        const token = document.querySelector(".handle");
        const before = token.getAttribute("transform");
        token.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
        const moved = token.getAttribute("transform") !== before;
        part("bifurcation").open = true;
        const options = part("preset").options.length;
        const visible = part("play").offsetParent !== null;
        document.body.append("RESULT" + JSON.stringify({ first, later, words, moved, options, visible, hash: location.hash }) + "END");
      }, 2000);
    });
    """
    (tmp_path / "book" / "page.html").write_text(
        # The page's title gives its section the id "explorer".
        f"<!DOCTYPE html><meta charset='utf-8'><body><section id='explorer'>{markup}</section><script>{script}</script></body>"
    )
    text = shown(browser, (tmp_path / "book" / "page.html").as_uri(), tmp_path)
    result = json.loads(html.unescape(re.search(r'RESULT(\{"first.*?\})END', text, re.DOTALL)[1]))
    assert result["first"].startswith("steps1")
    assert int(re.match(r"steps(\d+)", result["later"])[1]) > 20
    assert result["words"].startswith("No W separates:")
    assert result["moved"]
    assert result["visible"]
    assert result["options"] == 6
    assert result["hash"].startswith("#state=%7B%22tokens%22")
