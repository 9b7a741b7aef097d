"""QEMU's key=value grammar."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.cli import keyval
from emu.cli.options import DEVICE_KEYS, MACHINE_KEYS, NVDIMM_KEYS, OBJECT_KEYS
from emu.config import OnOffAuto
from emu.errors import UsageError


def test_commas_doubles_and_last_wins() -> None:
    assert keyval.split("file=a,,b,size=1,size=2", option="--nvdimm") == {"file": "a,b", "size": "2"}
    assert keyval.split("file=a,", option="--nvdimm") == {"file": "a"}
    assert keyval.split("file=,,", option="--nvdimm") == {"file": ","}
    assert keyval.split("pmem.img,sync=on", option="--nvdimm", implied="file") == {"file": "pmem.img", "sync": "on"}


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,5}", fullmatch=True), st.text(max_size=9), max_size=4))
def test_quoting_round_trips(pairs: dict[str, str]) -> None:
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in pairs.items())
    assert keyval.split(text, option="x") == pairs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size", "expected '='"),
        ("a=1,size", "expected '='"),
        ("=3", "valid parameter name"),
        ("si ze=3", "valid parameter"),
        ("size.=3", "valid parameter"),
        ("size.0=3", "invalid parameter 'size.0'"),
        ("colour=1", "invalid parameter 'colour'"),
        ("share=On", "neither 'on' nor 'off'"),
        ("share=1", "neither 'on' nor 'off'"),
        ("sync=yes", "sync takes on, off, auto"),
        ("rom=true", "rom takes on, off, auto"),
        ("unarmed=maybe", "neither 'on' nor 'off'"),
        ("sync=maybe", "sync takes on, off, auto"),
        ("{", "not valid JSON"),
        ("[]", "expected '='"),
        ('{"size": null}', "unsupported JSON"),
        ("host-nodes.1=0", "gaps"),
        ("host-nodes.9999=0", "too large"),
        ("file=a\0b", "NUL"),
    ],
)
def test_bad_options_name_the_place(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        keyval.parse(text, NVDIMM_KEYS, option="--nvdimm")
    assert caught.value.remedy


def test_json_form_and_lists() -> None:
    text = '{"file": "a,b", "share": true, "size": 4096, "host-nodes": [0, 2]}'
    values = keyval.parse(text, NVDIMM_KEYS, option="--nvdimm")
    assert values == {"file": "a,b", "share": True, "size": 4096, "host-nodes": (0, 2)}


BOOLEANS = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}


@pytest.mark.parametrize(("word", "value"), BOOLEANS.items())
def test_booleans_in_every_word_of_qemu(word: str, value: bool) -> None:
    """tests/oracle/test_oracle_options.py lets QEMU confirm the words."""
    nvdimm = keyval.parse(f"f,share={word},unarmed={word}", NVDIMM_KEYS, option="--nvdimm", implied="file")
    assert nvdimm == {"file": "f", "share": value, "unarmed": OnOffAuto.ON if value else OnOffAuto.OFF}
    assert keyval.parse(f"q35,nvdimm={word}", MACHINE_KEYS, option="-machine", implied="type")["nvdimm"] is value


def test_a_boolean_alone_where_qemu_takes_it() -> None:
    text = "memory-backend-file,readonly,noshare,id=m"
    values = keyval.parse(text, OBJECT_KEYS, option="-object", implied="qom-type", short=True)
    assert (values["readonly"], values["share"]) == (True, False)
    device = keyval.parse("nvdimm,unarmed", DEVICE_KEYS, option="-device", implied="driver", short=True)
    assert device["unarmed"] is OnOffAuto.ON
    for wrong in ("nvdimm,nosuch", "nvdimm,slot", "nvdimm,noslot", "nvdimm,no"):
        with pytest.raises(UsageError, match="expected '='"):
            keyval.parse(wrong, DEVICE_KEYS, option="-device", implied="driver", short=True)
    with pytest.raises(UsageError, match="expected '='"):  # as QEMU, whose -machine never took it
        keyval.parse("q35,nvdimm", MACHINE_KEYS, option="-machine", implied="type")


@pytest.mark.parametrize(
    "text", ["help", "?", "file=a,help", "share=help", "a=1,?", "a,help,size=4M", "=,help", '{"file": "help"}']
)
def test_help_is_asked(text: str) -> None:
    assert keyval.asks_for_help(text)


@pytest.mark.parametrize("text", ["", "file=helpful", "file=a,,help", "help=1", "{help", '{"help": "no"}'])
def test_help_is_not_asked(text: str) -> None:
    assert not keyval.asks_for_help(text)


PIECES = st.sampled_from(
    [
        *NVDIMM_KEYS,
        *OBJECT_KEYS,
        *DEVICE_KEYS,
        *MACHINE_KEYS,
        "=",
        ",",
        ",,",
        ".",
        "0",
        "on",
        "off",
        "auto",
        "64M",
        "-1",
        "{",
        "}",
        '"',
        "\0",
        "é",
    ]
)


@settings(max_examples=1_000, deadline=None)
@given(
    st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=40),
    st.sampled_from([NVDIMM_KEYS, OBJECT_KEYS, DEVICE_KEYS]),
)
def test_hostile_options_end_in_words(text: str, keys: dict[str, keyval.Key]) -> None:
    assert not keyval.asks_for_help(text) or "help" in text or "?" in text
    try:
        values = keyval.parse(text, keys, option="--nvdimm", implied="file" if "file" in keys else None, short=True)
        assert values.keys() <= keys.keys()
    except UsageError as error:
        assert error.remedy
        assert len(str(error)) < 1000
