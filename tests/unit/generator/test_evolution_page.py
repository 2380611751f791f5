"""`docs/evolution.md` has the rules that there are, as they are.

`pytest tests/unit/generator/test_evolution_page.py --update` writes its table anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from cdpgen.checks import RULES
from cdpgen.rules import Evolution

PAGE = Path(__file__).parents[3] / "docs" / "evolution.md"
BEGIN = "<!-- rules: made by `pytest tests/unit/generator/test_evolution_page.py --update` -->\n"
END = "<!-- end of rules -->"


def table() -> str:
    lines = ["| rule | what it asks | from level | otherwise | to fix |", "|---|---|---|---|---|"]
    for rule in RULES.values():
        shown = f"`{rule.id}`" + (" (a warning)" if rule.severity == "warning" else "")
        lines.append(f"| {shown} | {rule.purpose} | `{rule.level}` | {rule.breaks} | {rule.fix} |")
    return "\n".join(lines) + "\n"


def test_its_table_is_that_of_the_code(update: bool) -> None:
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    found, _, after = rest.partition(END)
    if update:
        PAGE.write_text(f"{before}{BEGIN}{table()}{END}{after}", "utf-8")
        found = table()
    assert found == table()


def test_its_rules_file_is_one_that_cdpgen_reads() -> None:
    text = PAGE.read_text("utf-8")
    shown = re.search(r"```yaml\n(evolution:\n.*?)```", text, re.DOTALL)
    assert shown is not None
    given = yaml.safe_load(shown[1])["evolution"]
    assert set(Evolution.model_validate(given).model_fields_set) == set(Evolution.model_fields)
