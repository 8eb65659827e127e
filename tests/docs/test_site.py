"""The pages that are made from the program, and what the reference promises."""

import re
import subprocess
import sys
from pathlib import Path

import scepsy
from executor.manifests import RenderOptions

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in scepsy.__all__ if not re.search(rf"\b{name}\b", page) and name != "__version__"]
    assert missing == []


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "DESIGN.md", *DOCS.rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            made = link.endswith(("commands.md", "design.md", "deploy-options.md"))
            assert made or (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


def test_the_command_reference_has_every_command() -> None:
    code = "import sys; sys.path.insert(0, 'docs'); import hooks; print(hooks.commands_page()); print(hooks.design_page()[:40])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ("scepsy plan", "scepsy trace import", "scepsy simulate", "scepsy apply"):
        assert f"## {command}\n" in done.stdout


def test_every_deploy_option_is_documented_with_its_default() -> None:
    code = "import sys; sys.path.insert(0, 'docs'); import hooks; print(hooks.deploy_options_page())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", done.stdout, flags=re.MULTILINE))
    for field in RenderOptions.__struct_fields__:
        assert len(rows[field]) > 10, field


def test_the_places_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("## Where to put what") : text.index("Dependencies point down.")]
    places: list[str] = re.findall(r"`((?:scepsy|sim|executor|experiments|tests|paper_figures)/[^`]*)`", table)
    assert len(places) > 15
    for place in places:
        assert (ROOT / place).is_dir(), place
    for room in ("routers", "orders", "autoscaling", "engines"):
        assert (ROOT / "sim/policies" / room).is_dir()
