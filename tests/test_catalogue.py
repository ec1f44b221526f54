"""docs/catalogue.md and its Chinese twin: made from the corpus, whole, and with links that lead somewhere."""

import json
import re

import pytest

from stdc_parity.align import selftest
from stdc_parity.align.pairs import stdc
from stdc_parity.fixtures.portbugs import document
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES
from stdc_parity.fixtures.portbugs.chinese import MODULES, SEEN, TEXTS, in_chinese
from stdc_parity.fixtures.portbugs.document import LANGUAGES, Language, Measured
from stdc_parity.fixtures.portbugs.topics import APIS, about

HAN = re.compile(r"[\u4e00-\u9fff]")
NEW = Measured({"torch": "2", "paddle": "3"}, {})
MAKE = "python -m stdc_parity.fixtures.portbugs.document makes it anew"
by_language = pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.file)


def sections(text: str) -> dict[str, str]:
    """What stands under each anchor, up to the next one."""
    parts = re.split(r'<a id="([^"]+)"></a>', text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@by_language
def test_the_committed_catalogue_is_that_of_the_corpus(language: Language) -> None:
    made = document.write_document(language, list(ENTRIES.values()), document.read_measured())
    assert (document.DOCS / language.file).read_text(encoding="utf-8") == made, MAKE


@by_language
def test_every_entry_is_there_and_every_link_leads_somewhere(language: Language) -> None:
    text = (document.DOCS / language.file).read_text(encoding="utf-8")
    anchors = re.findall(r'<a id="([^"]+)"></a>', text)
    assert len(anchors) == len(set(anchors))
    assert ENTRIES.keys() <= set(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors)
    for name in re.findall(r"\]\(([\w.-]+\.md)[)#]", text):
        assert (document.DOCS / name).exists(), name


def test_every_entry_has_chinese() -> None:
    assert TEXTS.keys() == ENTRIES.keys()
    assert len(TEXTS) == sum(len(module.TEXTS) for module in MODULES)  # no entry in two modules
    for entry in ENTRIES.values():
        chinese = in_chinese(entry)
        assert HAN.search(chinese.what), entry.id
        assert HAN.search(chinese.cause) or chinese.cause == entry.cause, entry.id
        assert bool(chinese.fix) != entry.harmless, entry.id


def test_a_source_is_in_chinese_or_names_a_file_or_an_api() -> None:
    seen = {entry.seen for entry in ENTRIES.values()}
    assert SEEN.keys() <= seen
    assert [each for each in seen - SEEN.keys() if not re.search(r"[/.(]|[a-z][A-Z]", each)] == []


def test_every_name_of_an_api_leads_to_an_entry() -> None:
    assert [api for api in APIS if not any(about(entry, api) for entry in ENTRIES.values())] == []


@pytest.mark.parametrize("name", ["pool-exclusive", "pool-default-divisor", "square-forgotten"])
def test_a_command_asks_for_what_the_self_test_runs(name: str) -> None:
    text = document.write_document(LANGUAGES[0], [ENTRIES[name]], NEW)
    command = re.search(r"`stdc-align all (.*)`", sections(text)[name])
    asked = dict(zip(*[iter(command[1].replace("--", "").split())] * 2, strict=True)) if command else {}
    assert asked.pop("plant") == name and asked.pop("pair") == ENTRIES[name].subject
    size = {"base": str(selftest.BASE), "size": "{}x{}".format(*selftest.SIZE)}
    assert asked == {"batch": "2"} | (size if ENTRIES[name].subject in stdc.NAMES else {})


def test_figures_are_those_of_entries() -> None:
    figures = json.loads((document.DOCS / "catalogue.json").read_bytes())["entries"]
    assert figures.keys() <= {entry.id for entry in ENTRIES.values() if not entry.harmless}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, "`cp.backbone.features.2.skip` gives another output in evaluation mode.\n"),
        ({"stage": "backward", "place": "x", "size": "2.5e-03"}, "The difference is 0.0025 of scale."),
        ({"stage": "forward", "place": "network", "why": "shape (1,), (2,)"}, "modules gives another"),
        ({"stage": "forward", "place": "x", "size": "inf"}, "The reference is zero there."),
        (
            {"cause": "exclusive; " * 100, "fix": "f", "before": "inf", "after": "0.0e+00"},
            "exclusive; exclusive; …\n",
        ),
        ({"cause": "exclusive", "fix": "f", "before": "1.0e-01", "after": "0.0e+00"}, "falls from 0.1 to 0 of"),
    ],
)
def test_an_entry_says_what_was_measured(said: dict[str, str], shown: str) -> None:
    measured = Measured(NEW.sides, {"pool-exclusive": said})
    text = document.write_document(LANGUAGES[0], [ENTRIES["pool-exclusive"]], measured)
    assert shown in sections(text)["pool-exclusive"]


def test_a_cause_that_is_not_the_planted_one_is_left_out() -> None:
    said = {"cause": "the moon", "fix": "none", "before": "1.0e-01", "after": "0.0e+00"}
    measured = Measured(NEW.sides, {"pool-exclusive": said})
    text = document.write_document(LANGUAGES[0], [ENTRIES["pool-exclusive"]], measured)
    assert "the moon" not in text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("bias_attr=None creates a bias", "`bias_attr=None` creates a bias"),
        ("it computes bn(relu(conv(x))).", "it computes `bn(relu(conv(x)))`."),
        ("max(x, 1)[0] is copied", "`max(x, 1)[0]` is copied"),
        ("x * y, [a]", r"x \* y, \[a\]"),
        ("用 F.pad 填充。", "用 `F.pad` 填充。"),
        ("1e-5 for 1.1e-5, x8.0.N", "1e-5 for 1.1e-5, x8.0.N"),
    ],
)
def test_code_in_a_sentence_is_set_as_code(text: str, markdown: str) -> None:
    assert document._prose(text) == markdown
