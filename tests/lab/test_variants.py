"""How an experiment names an optimizer with options and a schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multirate.lab.results import Trial
from multirate.lab.variants import Variant, parse_setting

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9)
WORDS = st.from_regex(r"[a-z_]+", fullmatch=True).filter(lambda word: isinstance(parse_setting(word), str))
SETTINGS = (
    NUMBERS
    | WORDS
    | st.booleans()
    | st.none()
    | st.lists(NUMBERS, min_size=1, max_size=4).map(tuple)
    | st.lists(WORDS, min_size=1, max_size=4).map(tuple)
)


@given(
    st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True),
    st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), SETTINGS, max_size=3),
    st.sampled_from(["constant", "cosine", "warmup-cosine"]),
)
def test_what_is_written_is_read_back(name, options, schedule):
    variant = Variant(name, options, schedule)
    assert Variant.parse(str(variant)) == variant
    assert Variant.parse(str(variant)).options == options


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("adam", "adam"),
        ("adam:lr=3e-3", "adam:lr=0.003"),
        ("adam:weight_decay=0:lr=1e-3+cosine", "adam:lr=0.001:weight_decay=0+cosine"),
        ("adam-cam-hd:levels=global/layer:weights=0.5/0.5", "adam-cam-hd:levels=global/layer:weights=0.5/0.5"),
        ("adam-cam-hd:levels=global/:weights=1.0/", "adam-cam-hd:levels=global/:weights=1.0/"),
        ("adam:fused=True", "adam:fused=true"),
        ("sgd:lr=1e30", "sgd:lr=1e30"),
        ("adam+constant", "adam"),
    ],
)
def test_one_variant_has_one_name(text, canonical):
    assert str(Variant.parse(text)) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "Adam", "adam:", "adam:lr", "adam:lr=", "adam+", "adam lr=1", "adam+cosine+linear", "../adam", "adam:lr=1,2"],
)
def test_malformed_names_are_refused_with_the_grammar(text):
    with pytest.raises(ValueError, match=r"must be NAME\[:OPTION=VALUE\]"):
        Variant.parse(text)


def test_a_setting_is_not_half_number_half_word():
    with pytest.raises(ValueError, match="mixes"):
        parse_setting("global/0.5")


def test_a_setting_is_a_finite_number():
    for text in ("inf", "-inf", "nan"):
        with pytest.raises(ValueError, match="not a finite number"):
            parse_setting(text)


def test_trials_that_differ_have_files_that_differ():
    names = ["adam", "adam:lr=0.1", "adam:lr=0.1+cosine", "adam+cosine", "adam-cam-hd:levels=global/layer"]
    stems = {Trial("digits/ffnn", name, 0, 1, fold).stem for name in names for fold in (None, 0, 1)}
    assert len(stems) == 3 * len(names)
    assert all("/" not in stem and ":" not in stem for stem in stems)
