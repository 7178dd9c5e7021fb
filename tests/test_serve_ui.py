"""The page's files as they are shipped: nothing inline, nothing of other hosts, nothing set as HTML."""

import glob
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
UI = REPO / "tempo_jax" / "serve" / "ui"
FILES = sorted(path for path in UI.rglob("*") if path.is_file())
MODULES = [path for path in FILES if path.suffix == ".js"]
SHEETS = [path for path in FILES if path.suffix == ".css"]
SVG_NAMES = "http://www.w3.org/2000/svg"  # a name, not an address: nothing is fetched from it
# What parses text as HTML or as code; the Content-Security-Policy would stop most of it at run time.
FORBIDDEN = (
    *("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "createContextualFragment"),
    *("DOMParser", "srcdoc", "eval(", "new Function", "javascript:", "importScripts"),
)


class Markup(HTMLParser):
    """Tags with their attributes, and the text within scripts and styles."""

    def __init__(self):
        super().__init__()
        self.tags, self.inline, self._within = [], "", ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._within = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._within = ""

    def handle_data(self, data):
        if self._within:
            self.inline += data.strip()


@pytest.fixture(scope="module")
def index():
    markup = Markup()
    markup.feed((UI / "index.html").read_text("utf-8"))
    return markup


def relative(path):
    return path.relative_to(UI).as_posix()


def test_nothing_is_inline(index):
    assert index.inline == ""
    for tag, attributes in index.tags:
        assert tag != "style"
        assert "style" not in attributes, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)


def test_every_file_it_names_is_there_and_on_this_server(index):
    named = [a.get("src") or a.get("href") for _, a in index.tags if a.get("src") or a.get("href")]
    files = [name for name in named if not name.startswith("#")]
    assert len(files) >= 3
    for name in files:
        assert re.fullmatch(r"/[a-z][\w./-]*", name), name
        assert (UI / name[1:]).is_file(), name


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_names_another_host(path):
    text = path.read_text("utf-8").replace(SVG_NAMES, "")
    assert not re.search(r"""\b(https?|wss?)://|["'(]//""", text)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_text_is_never_parsed(path):
    text = path.read_text("utf-8")
    assert [word for word in FORBIDDEN if word in text] == []
    assert not re.search(r"""setAttribute\(\s*["']style""", text)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_is_of_one_concept_and_finds_what_it_imports(path):
    text = path.read_text("utf-8")
    assert text.startswith("//") and len(text.splitlines()) < 600
    for names, source in re.findall(r"import\s+(.+?)\s+from\s+\"(.+?)\";", text, re.DOTALL):
        other = (path.parent / source).resolve()
        assert other.is_file(), source
        offered = set(
            re.findall(r"export (?:async )?(?:function\*?|const|class) (\w+)", other.read_text("utf-8"))
        )
        if not names.startswith("* as"):
            assert set(re.findall(r"\w+", names)) <= offered, (source, names)


def test_every_export_is_used():
    texts = {path: path.read_text("utf-8") for path in MODULES}
    unused = []
    for path, text in texts.items():
        for name in re.findall(r"export (?:async )?(?:function\*?|const|class) (\w+)", text):
            if len(re.findall(rf"\b{name}\b", text)) < 2 and not any(
                re.search(rf"\b{name}\b", other) for where, other in texts.items() if where != path
            ):
                unused.append(f"{path.name}: {name}")
    assert unused == []


def test_icons_and_elements_that_are_used_exist(index):
    there = {attributes["id"] for _, attributes in index.tags if "id" in attributes}
    code = "\n".join(path.read_text("utf-8") for path in MODULES)
    icons = re.findall(r"""iconName: "(\w+)\"""", code) + re.findall(r"""icon\("(\w+)"\)""", code)
    assert icons
    assert {f"icon-{name}" for name in icons} <= there
    named = set(re.findall(r"""byId\("([\w-]+)"\)""", code))
    assert named <= there, named - there
    assert len(there) == sum("id" in attributes for _, attributes in index.tags)  # none twice


def test_every_class_of_the_style_is_used(index):
    used = "\n".join(path.read_text("utf-8") for path in [*MODULES, UI / "index.html"])
    for path in SHEETS:
        rules = re.sub(r"/\*.*?\*/|\{[^{}]*\}", "{}", path.read_text("utf-8"), flags=re.DOTALL)
        for name in set(re.findall(r"\.([a-z][\w-]*)", rules)):
            assert re.search(rf"\b{name}\b", used), f"{path.name}: .{name}"


def test_the_files_are_package_data():
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["tempo_jax.serve"]
    found = [glob.glob(pattern, root_dir=UI.parent, recursive=True) for pattern in patterns]
    shipped = {name for names in found for name in names}
    assert {f"ui/{relative(path)}" for path in FILES} <= shipped
