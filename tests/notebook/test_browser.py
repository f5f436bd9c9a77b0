"""The explorers in JupyterLab, driven as a reader drives them: run the cells, drag a slider."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest
from explorers import controls, live_picture, pressed
from places import ROOT
from small_games import endgames, questions_policy, transcript, values_of, wordle_policy
from small_robot import robot_episode

from qsft_lite.tasks.chess import widgets as chess_widgets
from qsft_lite.tasks.gridworld import widgets as gridworld_widgets
from qsft_lite.tasks.manipulation import widgets as robot_widgets
from qsft_lite.tasks.manipulation.asking import Asked
from qsft_lite.tasks.twenty_questions import widgets as twenty_questions_widgets
from qsft_lite.tasks.wordle import widgets as wordle_widgets
from qsft_lite.viz import explorers as widgets
from qsft_lite.viz import simplex

pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Where one plays oneself: what the cells run, this process runs too, and does the same to it.
OWN_CELLS = [
    "import numpy as np\n"
    "from qsft_lite.viz import explorers as widgets\n"
    "pi = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])\n"
    "values = {'CQL': pi[::-1], 'ILQL': pi**2}\n"
    "widgets.policy_explorer(pi, values, ['first', 'second'], ['up', 'right', 'down'], exact=pi)",
    "from small_games import wordle_policy\n"
    "from qsft_lite.tasks.wordle import widgets as wordle_widgets\n"
    "policy, rules = wordle_policy()\n"
    "wordle_widgets.own_transcript_explorer(policy, rules)",
    "from qsft_lite.envs import make\n"
    "from qsft_lite.tasks.chess import widgets as chess_widgets\n"
    "from small_games import values_of\n"
    "env = make('endgames', materials='Q', format='pieces')\n"
    "chess_widgets.own_moves_explorer(\n"
    "    env, {'exact': values_of}, positions=['1k6/8/2K5/8/8/8/8/7Q w - - 0 1']\n"
    ")",
    "from small_games import questions_policy\n"
    "from qsft_lite.tasks.twenty_questions import widgets as twenty_questions_widgets\n"
    "policy, rules = questions_policy()\n"
    "twenty_questions_widgets.answer_explorer(policy, rules)",
    "from small_games import questions_policy\n"
    "from qsft_lite.tasks.twenty_questions import widgets as twenty_questions_widgets\n"
    "policy, rules = questions_policy()\n"
    "twenty_questions_widgets.ask_explorer(policy, rules)",
]
CELLS = [
    "from qsft_lite.tasks.gridworld import widgets as gridworld_widgets\n"
    "from qsft_lite.tasks.wordle import widgets as wordle_widgets\n"
    "from qsft_lite.viz import explorers as widgets",
    "gridworld_widgets.gridworld_explorer()",
    "widgets.simplex_explorer()",
    "from small_games import wordle_policy\n"
    "policy, rules = wordle_policy()\n"
    "wordle_widgets.play_explorer(policy, rules, game=1)",
    "from qsft_lite.tasks.chess import widgets as chess_widgets\n"
    "from small_games import endgames, values_of\n"
    "chess_widgets.board_explorer(endgames(1), {'exact': values_of})",
    "from qsft_lite.tasks.twenty_questions import widgets as twenty_questions_widgets\n"
    "from small_games import questions_policy, transcript\n"
    "policy, rules = questions_policy()\n"
    "texts = transcript(rules, rules.names[3], range(4))\n"
    "twenty_questions_widgets.game_explorer(policy, rules, [{'text': texts}], asked=1)",
    "from qsft_lite.tasks.manipulation import widgets as robot_widgets\n"
    "from small_robot import robot_episode\n"
    "env, policy, start, episode = robot_episode()\n"
    "robot_widgets.scene_explorer(policy, env, [start], [episode])",
    *OWN_CELLS,
]
PATIENCE = 60  # seconds, for a slow machine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(BROWSERS)} is installed"),
]


@pytest.fixture
def lab(tmp_path):
    """The address of a notebook in a JupyterLab of this interpreter, on this machine alone."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in CELLS],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}},
    )
    nbformat.write(notebook, folder / "explorers.ipynb")
    for name in ("small_games.py", "small_robot.py"):
        shutil.copy(ROOT / "tests" / name, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    log = tmp_path / "jupyterlab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                "--ServerApp.ip=127.0.0.1",
                f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0",
                f"--ServerApp.root_dir={folder}",
                f"--IdentityProvider.token={token}",
            ],
            env=environment(tmp_path),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_server(server, f"http://127.0.0.1:{port}/api/status?token={token}", log)
        yield f"http://127.0.0.1:{port}/lab/tree/explorers.ipynb?token={token}"
    finally:
        stop(server)
        print(log.read_text())  # pytest shows it with a failure


def environment(folder: Path) -> dict[str, str]:
    """This process's environment, with JupyterLab's own files in `folder` and no news pop-up."""
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = '{"fetchNews": "false", "checkForUpdates": false}'
    (settings / "notification.jupyterlab-settings").write_text(quiet)
    return os.environ | {
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not a user's
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
    }


def wait_for_server(server: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"JupyterLab ended with status {server.returncode}:\n{log.read_text()}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()}")


def stop(server: subprocess.Popen) -> None:
    """End the server, and its kernels should it leave any."""
    family = []
    if server.poll() is None:
        family = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
    try:
        server.wait(timeout=15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    _, left = psutil.wait_procs(family, timeout=5)
    for process in left:
        process.kill()


@pytest.fixture
def page(lab):
    """A headless browser with the notebook open and its kernel idle."""
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1500, "height": 6000})
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(lab)
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
            yield page
        finally:
            browser.close()


def picture_bytes(image) -> bytes:
    """The file behind an <img>."""
    numbers = image.evaluate(
        "async image => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer()))"
    )
    return bytes(numbers)


def wait_until_shown(page, image, expected: bytes) -> None:
    deadline = time.monotonic() + PATIENCE
    while picture_bytes(image) != expected:
        if time.monotonic() > deadline:
            pytest.fail("the picture is not the one that belongs to the slider's value")
        page.wait_for_timeout(100)


def drag(page, handle, pixels: int) -> None:
    """Drag a slider's handle sideways, in steps, as a hand does."""
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=10)
    page.mouse.up()


def boards_at(turn: float):
    """What the explorer of endgames shows."""
    [game] = endgames(1)
    board, played = game[int(turn) - 1]
    title = f"Game 1, turn {turn:.0f} of {len(game)}: White plays {board.san(played)}"
    shown = {"exact": values_of(board)}
    return chess_widgets.draw_values(board, shown, most=8, played=played, title=title)


def questions_at(asked: float):
    """What the explorer of Twenty Questions shows."""
    policy, rules = questions_policy()
    texts = transcript(rules, rules.names[3], range(4))
    return twenty_questions_widgets.draw_game(policy, rules, texts, int(asked))


def scene_at(step: float):
    """What the explorer of the robot's episodes shows."""
    env, policy, start, episode = robot_episode()
    asked, moments = Asked(policy, env), robot_widgets.moments_of(env, start, episode)
    actions, turn = episode["text"][1::2], int(step)
    action = actions[turn] if turn < len(actions) else None
    values = asked.values(moments)
    return robot_widgets.draw_scene(asked, moments, turn, values=values, action=action)


def choose(explorer, description: str, label: str) -> None:
    """Choose from a list, as a hand does."""
    dropdown = explorer.locator(".widget-dropdown").filter(has_text=description)
    dropdown.locator("select").select_option(label)


def type_into(explorer, description: str, text: str) -> None:
    """Type into a box and press Enter."""
    box = explorer.locator(".widget-text").filter(has_text=description).locator("input")
    box.fill(text)
    box.press("Enter")


def click(explorer, description: str) -> None:
    explorer.locator("button.widget-toggle-button").filter(has_text=description).click()


def own_play(explorers, page, shown) -> None:
    """Do the same in the browser and in this process, and see that it shows the same."""
    deeds = (  # what is done, the control's description, and to what
        ("choose", "state", ("2: second", 1)),
        ("type", "guesses", "chair, there, nothing"),
        ("choose", "White's move", ("Qa1", "Qa1")),
        ("click", "no", True),
        ("type", "or type it", "Is it an animal?"),
    )
    first = len(CELLS) - 1 - len(OWN_CELLS)  # the first cell of all has no explorer
    for index, (source, (kind, description, value)) in enumerate(
        zip(OWN_CELLS, deeds, strict=True), start=first
    ):
        shown.clear()
        exec(source, {})
        static, twin = shown
        explorer = explorers.nth(index)
        live = explorer.locator("img.widget-image")
        live.wait_for()
        wait_until_shown(page, live, static.data)
        if kind == "choose":
            choose(explorer, description, value[0])
            controls(twin)[description].value = value[1]
        elif kind == "type":
            type_into(explorer, description, value)
            pressed(twin)[description].value = value
        else:
            click(explorer, description)
            pressed(twin)[description].value = value
        assert live_picture(twin).value != static.data
        wait_until_shown(page, live, live_picture(twin).value)


def test_a_reader_drags_chooses_types_and_clicks(page, shown):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    explorers = page.locator(".jp-CodeCell").filter(has=page.locator("img.widget-image"))
    cases = (
        (0, "β (sharpness)", lambda beta: gridworld_widgets.draw_gridworld(beta=beta)),
        (1, "y(a)", lambda y: simplex.draw_simplex(target=(y, 0.9, 0.6))),
        (3, "turn", boards_at),
        (4, "turn", questions_at),
        (5, "turn", scene_at),
    )
    for index, description, draw in cases:
        explorer = explorers.nth(index)
        live = explorer.locator("img.widget-image")
        live.wait_for()
        at_rest = picture_bytes(live)
        assert picture_bytes(explorer.locator("img:not(.widget-image)")) == at_rest

        slider = explorer.locator(".widget-slider").filter(has_text=description)
        readout = slider.locator(".widget-readout")
        before = float(readout.inner_text())
        drag(page, slider.locator(".noUi-handle"), 60)
        after = float(readout.inner_text())
        assert after > before
        wait_until_shown(page, live, widgets._png(draw(after)))
        assert picture_bytes(live) != at_rest

    # A guess in the game of Wordle.
    explorer = explorers.nth(2)
    live = explorer.locator("img.widget-image")
    live.wait_for()
    at_rest = picture_bytes(live)
    policy, rules = wordle_policy()
    secret = rules.words[7 % len(rules.words)]
    guess = explorer.locator(".widget-dropdown").filter(has_text="guess 1").locator("select")
    guess.select_option("chair")
    note = wordle_widgets._thought_of(policy, rules, secret, ["chair"])
    played = wordle_widgets.draw_candidates(policy, rules, secret, ["chair"], note=note)
    wait_until_shown(page, live, widgets._png(played))
    assert picture_bytes(live) != at_rest

    own_play(explorers, page, shown)
    complaints = page.locator("[data-mime-type$='.stderr'], [data-mime-type$='.error']")
    assert complaints.all_inner_texts() == []
