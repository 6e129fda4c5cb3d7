"""Documentation that is wrong fails here."""

import pathlib
import re
import shlex

import pytest
import typer

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "muse_keras" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
# These need a server or a trained model; tests/serving runs them.
WITH_SERVER = {
    "clients.md",
    "export.md",
    "ranking-service.md",
    "serving.md",
    "user-cache.md",
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page, language):
    return [
        code
        for found, code in BLOCK.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if blocks(page, "python") and page.name not in WITH_SERVER
    ],
    ids=name,
)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    namespace = {"__name__": "example"}
    for code in blocks(page, "python"):
        code = code.replace("/var/lib/muse", str(tmp_path))
        exec(compile(code, name(page), "exec"), namespace)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_valid(page):
    for code in blocks(page, "python"):
        compile(code, name(page), "exec")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "bash")], ids=name
)
def test_commands_exist(page):
    from muse_tools.cli.commands import app

    root = typer.main.get_command(app)
    targets = set(
        re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M)
    )
    commands = "".join(blocks(page, "bash")).replace("\\\n", " ")
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            goals = [w for w in words[1:] if "=" not in w]
            assert set(goals) <= targets, line
        elif words[:1] == ["muse"]:
            parse(root, words[1:], line)


def parse(command, words, line):
    """Parses a command line as the command itself would, without running."""
    commands = getattr(command, "commands", None)  # A group has them.
    if commands is None:
        try:
            command.make_context("muse", list(words))
        except Exception as error:
            # The options are known; a file of the example need not be there.
            if "does not exist" not in str(error):
                raise
        return
    found = commands.get(words[0])
    assert found is not None, f"no command {words[0]!r} in: {line}"
    parse(found, words[1:], line)


def test_a_wrong_option_in_a_page_is_found():
    from muse_tools.cli.commands import app

    with pytest.raises(Exception, match="No such option"):
        words = ["pipeline", "run", "--no-such-option"]
        parse(typer.main.get_command(app), words, "muse")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=name)
def test_a_page_says_first_what_it_is_for(page):
    _, _, start = page.read_text(encoding="utf-8").split("\n", 2)
    assert start.startswith("After this page you "), name(page)


def headings(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S
    )
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in headings(path), target
