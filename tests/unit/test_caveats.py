"""The one enum of weaknesses: each is said somewhere in the code, has its advice, and stands in the documentation."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path

import pytest
from harness import ROOT

from edgekit import caveats
from edgekit.caveats import Weakness, caveat

SOURCE = "".join(path.read_text("utf-8") for path in Path(caveats.__file__).parent.rglob("*.py"))
PAGE = ROOT / "docs" / "measurement.md"
BEGIN, END = "<!-- weaknesses -->", "<!-- end of weaknesses -->"


def row(weakness: Weakness) -> str:
    """What the documentation says of it: one row of a table."""
    blank = re.sub(r"{(\w+)[^}]*}", r"*\1*", f"`{weakness.code}` | {weakness.says} | {weakness.advice}")
    return f"| {blank.strip()} |"


@pytest.mark.parametrize("weakness", Weakness, ids=lambda weakness: weakness.code)
def test_a_weakness_is_said_somewhere_with_advice(weakness: Weakness) -> None:
    assert re.search(rf'caveat\(\s*"{weakness.code}"', SOURCE), f"{weakness.code} is never said"
    assert weakness.advice or weakness.says == "{what}", "what is to be done about it?"
    assert Weakness.of(weakness.code) is weakness


def test_the_documentation_has_all_of_them_in_these_words() -> None:
    """EDGEKIT_UPDATE_GOLDEN=1 writes the table anew; read the difference before you keep it."""
    text = PAGE.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    told, _, tail = rest.partition(END)
    assert rest and tail, f"the page lacks {BEGIN} or {END}"
    table = "\n".join(["", "| code | what is said | what to do |", "|---|---|---|", *map(row, Weakness), ""])
    if os.environ.get("EDGEKIT_UPDATE_GOLDEN"):
        PAGE.write_text(f"{head}{BEGIN}{table}{END}{tail}", "utf-8")
        pytest.skip("written anew: unset EDGEKIT_UPDATE_GOLDEN to compare")
    assert told == table


def test_what_is_said_is_in_the_enum() -> None:
    said = set(re.findall(r'\bcaveat\(\s*"([a-z0-9-]+)"', SOURCE))
    assert said == {weakness.code for weakness in Weakness}


def test_a_caveat_is_the_sentence_with_its_advice_and_figures() -> None:
    found = caveat("stolen", share=0.123)
    assert found.code == "stolen"
    assert "took 12.3% of the time" in found.message and found.message.endswith(Weakness.STOLEN.advice)
    assert caveat("opened", what="as it is").message == "as it is"
    with pytest.raises(KeyError):
        caveat("nonsense")
    with pytest.raises(KeyError):
        caveat("stolen")


def test_no_two_weaknesses_are_one() -> None:
    assert len({weakness.says for weakness in Weakness if weakness.says != "{what}"}) == len(Weakness) - 2
    for weakness in Weakness:
        names = {
            name for _, name, _, _ in string.Formatter().parse(weakness.says + weakness.advice) if name is not None
        }
        assert all(name.isidentifier() for name in names)
