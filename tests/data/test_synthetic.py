"""Synthetic languages: the worked examples, and what each transformation promises, by property."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jalign.data.synthetic import (
    WIDE_MARKS,
    Answer,
    Composition,
    Inversion,
    Permutation,
    Settings,
    Transformation,
    Transliteration,
    make,
)
from jalign.data.synthetic.order import (
    entities,
    identity,
    inverse,
    links_of,
    move,
    move_links,
    move_span,
    move_tags,
    piece_order,
)
from jalign.errors import ConfigError

INV = Inversion()
TOKENS = Inversion("token", (0, 1, 2))
WORDS = st.lists(st.sampled_from(["a", "b", "Yahoo", ".", "!", "?", "No."]), max_size=9)
TAGGED = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", ".", "!"]),
        st.sampled_from(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]),
    ),
    max_size=10,
).map(lambda pairs: ([w for w, _ in pairs], [t for _, t in pairs]))
ORDERS = (
    st.integers(0, 9)
    .flatmap(lambda n: st.permutations(range(n)))
    .map(lambda p: np.array(p, np.int32))
)


def entity_set(words, tags):
    """The entities as the issue compares them: type and set of words, with their number."""
    return Counter((e.kind, tuple(sorted(words[e.start : e.stop]))) for e in entities(tags))


def test_the_published_ner_example():
    words = "John Smith lives in New York City .".split()
    tags = "B-PER I-PER O O B-LOC I-LOC I-LOC O".split()
    new_words, new_tags, order = INV.tags(words, tags)
    assert " ".join(new_words) == "City York New in lives Smith John ."
    assert " ".join(new_tags) == "B-LOC I-LOC I-LOC O O B-PER I-PER O"
    assert order.tolist() == [6, 5, 4, 3, 2, 1, 0, 7]
    assert INV.tags(new_words, new_tags)[:2] == (words, tags)


def test_pos_tags_go_with_their_words_unrepaired():
    new, tags, _ = INV.tags(["the", "cat", "sat", "!"], ["DET", "NOUN", "VERB", "PUNCT"])
    assert (new, tags) == (["sat", "cat", "the", "!"], ["VERB", "NOUN", "DET", "PUNCT"])
    with pytest.raises(ValueError, match="a tag per word"):
        INV.tags(["a", "b"], ["X"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a b c .", "c b a ."),
        ("a b c", "c b a"),
        ("a . b c .", "c b . a ."),  # within one sentence only the final mark is held
        ("? !", "? !"),
        (". a b", ". b a"),  # the authors' rule gives "b a .", which does not come back
        (". a .", "a . ."),
        ("", ""),
    ],
)
def test_inversion_of_words_by_hand(before, after):
    assert INV.text(before.split())[0] == after.split()
    assert INV.text(after.split())[0] == before.split()


def test_a_line_is_cut_after_every_mark():
    words = "Is it ? Yes . Well !".split()
    assert INV.pieces(words) == [(0, 3), (3, 5), (5, 7)]
    assert INV.pieces("a . b".split()) == [(0, 2), (2, 3)]
    assert INV.pieces([]) == [(0, 0)]
    assert INV.pieces("你好 。 再见".split()) == [(0, 3)]
    assert Inversion(marks=WIDE_MARKS).pieces("你好 。 再见".split()) == [(0, 2), (2, 3)]


def test_a_mark_inside_an_entity_moves_with_it():
    words, tags = ["I", "like", "Yahoo", "!"], ["O", "O", "B-ORG", "I-ORG"]
    new = INV.tags(words, tags)
    assert new[:2] == (["!", "Yahoo", "like", "I"], ["B-ORG", "I-ORG", "O", "O"])
    assert INV.tags(*new[:2])[:2] == (words, tags)
    # the same words without the entity: the mark is the sentence's
    assert INV.text(words)[0] == ["Yahoo", "like", "I", "!"]


@given(WORDS)
def test_inversion_of_words_is_an_involution_and_keeps_the_words(words):
    once, order = INV.text(words)
    assert INV.text(once)[0] == words
    assert sorted(order.tolist()) == list(range(len(words)))
    assert Counter(once) == Counter(words) and once == move(words, order)
    for start, stop in INV.pieces(words):  # on pieces it is the authors' rule
        piece = words[start:stop]
        has_mark = bool(piece) and piece[-1] in (".", "!", "?")
        body, mark = (piece[:-1], piece[-1:]) if has_mark else (piece, [])
        assert INV.text(piece)[0] == body[::-1] + mark


@given(TAGGED)
def test_inversion_keeps_entities_and_twice_is_bio_repair(tagged):
    words, tags = tagged
    new_words, new_tags, order = INV.tags(words, tags)
    assert entity_set(new_words, new_tags) == entity_set(words, tags)
    assert INV.tags(new_words, new_tags)[:2] == (words, move_tags(tags, identity(len(tags))))


def test_bio_repair_by_hand():
    def turned(tags):
        return move_tags(tags.split(), np.arange(len(tags.split()))[::-1])

    assert turned("B-PER I-PER B-LOC I-LOC O") == "O B-LOC I-LOC B-PER I-PER".split()
    assert turned("O I-PER I-LOC") == "B-LOC B-PER O".split()  # I- without B- begins an entity
    # torn apart: one entity per run of its words
    assert move_tags("B-PER I-PER I-PER O".split(), np.array([1, 0, 3, 2])) == (
        "B-PER I-PER O B-PER".split()
    )


def test_a_raw_sentence_gives_its_mark_to_the_new_last_word():
    premise, hypothesis = "And he said, Mama, I'm home.", "He didn't say a word !"
    nli = INV.nli(premise, hypothesis)
    assert nli.premise == "home I'm Mama, said, he And."
    assert nli.hypothesis == "word a say didn't He !"  # the authors' code glues it: " word a..."
    assert [o.tolist() for o in nli.orders] == [[5, 4, 3, 2, 1, 0], [4, 3, 2, 1, 0, 5]]
    assert INV.sentence("Well...")[0] == "Well..."
    assert INV.sentence("  two  words ")[0] == "words two"
    assert INV.sentence("")[0] == ""


@given(st.lists(st.sampled_from(["a", "b.", "c!?", ".", "Mr.", "d"]), max_size=7))
def test_raw_inversion_is_an_involution_but_for_a_mark_on_the_first_word(words):
    text, order = INV.sentence(" ".join(words))
    assert sorted(order.tolist()) == list(range(len(words)))
    first = next((word for word in words if word not in (".", "!", "?")), " ")
    if first[-1] not in ".!?" or words[-1][-1] in ".!?":
        assert INV.sentence(text)[0] == " ".join(words)
    assert sorted(text.replace(" ", "")) == sorted("".join(words))


def test_tokens_are_reversed_between_special_ids():
    ids = np.array([0, 7, 8, 9, 2, 5, 6, 2, 1, 1])
    new, order = TOKENS.ids(ids)
    assert new.tolist() == [0, 9, 8, 7, 2, 6, 5, 2, 1, 1]
    assert order.tolist() == [0, 3, 2, 1, 4, 6, 5, 7, 8, 9]
    # an answer [1, 3) is found at [2, 4): the authors swap and remap its start and end
    assert move_span(1, 3, order) == (2, 4)
    # a label on the first piece of a word of two is on the last one after it
    assert move([-100, "X", -100, -100, -100], order[:5]) == [-100, -100, -100, "X", -100]
    assert TOKENS.text(["a", "b"])[0] == ["a", "b"] and INV.ids(ids)[0].tolist() == ids.tolist()


@given(st.lists(st.integers(0, 9), max_size=30))
def test_token_inversion_is_an_exact_involution(ids):
    assert TOKENS.ids(TOKENS.ids(np.array(ids, int))[0])[0].tolist() == ids


def test_levels_are_checked():
    with pytest.raises(ConfigError, match="word, token"):
        Inversion("char")
    with pytest.raises(ConfigError, match="special_ids"):
        Permutation("token")


@given(ORDERS, ORDERS)
def test_orders_compose_and_undo(one, other):
    items = [f"w{i}" for i in range(len(one))]
    assert move(move(items, one), inverse(one)) == items
    assert links_of(one) == sorted(zip(one.tolist(), range(len(one)), strict=True))
    links = [(0, i) for i in range(len(one))]
    assert move_links(links, one, side=1) == links  # the one source word keeps all of them
    if len(one) == len(other):
        assert move(move(items, one), other) == move(items, one[other])


def test_links_and_pieces_follow_by_hand():
    order = np.array([2, 0, 1])
    assert move_links([(0, 5), (2, 7)], order, side=0) == [(0, 7), (1, 5)]
    assert move_links([(5, 0), (7, 2)], order, side=1) == [(5, 1), (7, 0)]
    assert move_span(0, 2, order) == (1, 3) and move_span(1, 3, order) is None
    assert move_span(2, 2, order) is None
    # words of 2, 1 and 3 pieces
    assert piece_order(order, np.array([0, 0, 1, 2, 2, 2])).tolist() == [3, 4, 5, 0, 1, 2]
    assert piece_order(np.zeros(0, int), np.zeros(0, int)).tolist() == []


def test_permutation_is_a_bijection_drawn_from_seed_and_number_alone():
    perm = Permutation(seed=3)
    words = "a b c d e f g h".split()
    new, order = perm.text(words, number=5)
    assert Counter(new) == Counter(words) and move(new, inverse(order)) == words
    assert new == Permutation(seed=3).text(words, number=5)[0]  # no state between sentences
    assert len({tuple(perm.text(words, number=n)[0]) for n in range(50)}) > 45
    assert new != Permutation(seed=4).text(words, number=5)[0]
    with pytest.raises(ConfigError, match="inv or syn"):
        perm.qa("a b", "c", [])


def test_permutations_are_uniform():
    counts = Counter(tuple(Permutation().text("abc", number=n)[0]) for n in range(3000))
    assert len(counts) == 6 and all(abs(n - 500) < 100 for n in counts.values())
    ids = np.array([0, 5, 6, 7, 2, 8, 9, 2])
    new, order = Permutation("token", (0, 1, 2), 1).ids(ids, number=2)
    assert new[[0, 4, 7]].tolist() == [0, 2, 2] and sorted(new[1:4]) == [5, 6, 7]
    assert new.tolist() == ids[order].tolist()


def test_transliteration_shifts_everything_but_special_ids():
    trans = Transliteration(40_000, (0, 1, 2, 4))
    assert trans.ids([0, 3, 4, 39_999, 7, 2])[0].tolist() == [0, 40_003, 4, 79_999, 40_007, 2]
    assert trans.derived_vocab_size == 80_000 and len(trans.kept_ids) == 0
    assert trans.text(["a", "b"])[0] == ["a", "b"]
    assert trans.ids([])[0].tolist() == []
    with pytest.raises(ValueError, match="already"):
        trans.ids([40_000])


@given(st.integers(5, 300), st.floats(0, 1), st.integers(0, 5))
def test_transliteration_is_a_bijection_with_exactly_that_overlap(vocab, overlap, seed):
    trans = Transliteration(vocab, (0, 1, 2), overlap=overlap, seed=seed)
    ids = np.arange(vocab)
    new = trans.ids(ids)[0]
    assert len(set(new.tolist())) == vocab
    assert trans.original_ids(new).tolist() == ids.tolist()
    unshifted = set(ids[new == ids].tolist())
    assert len(unshifted - {0, 1, 2}) == min(round(overlap * vocab), vocab - 3)
    assert {0, 1, 2} <= unshifted
    again = Transliteration(vocab, (0, 1, 2), overlap=overlap, seed=seed)
    assert again.kept_ids.tolist() == trans.kept_ids.tolist()


@pytest.mark.parametrize(("overlap", "theirs"), [(0.25, 8856), (0.5, 15771)])
def test_a_quarter_is_a_quarter_and_not_what_drawing_with_replacement_gives(overlap, theirs):
    trans = Transliteration(40_000, (0, 1, 2), overlap=overlap, seed=1)
    assert len(trans.kept_ids) == overlap * 40_000
    # the files of the authors hold 1 - (1 - 1/V)^(fV) of the vocabulary, within chance
    expected = 40_000 * (1 - (1 - 1 / 40_000) ** (overlap * 40_000))
    assert abs(theirs - expected) < 100
    assert Transliteration(40_000, (0,), overlap, seed=2).kept_ids.tolist() != list(trans.kept_ids)


def test_the_synthetic_dictionary_pairs_an_id_with_its_shift():
    trans = Transliteration(1000, (0, 1, 2), overlap=0.1, seed=4)
    pairs = trans.dictionary(0.5, seed=7)
    assert pairs.dtype == np.int32 and (pairs[:, 1] - pairs[:, 0] == 1000).all()
    assert 400 < len(pairs) <= 500 and len(set(pairs[:, 0].tolist())) == len(pairs)
    assert not np.isin(pairs[:, 0], [0, 1, 2, *trans.kept_ids]).any()
    assert trans.dictionary(0.5, seed=7).tolist() == pairs.tolist()
    whole = Transliteration(1000, (0, 1, 2)).dictionary(1.0, exclude=[3])
    assert whole[:, 0].tolist() == list(range(4, 1000))  # all but special and excluded ids
    for rate in (0, 1.5, 0.0001):
        with pytest.raises(ConfigError, match="rate"):
            trans.dictionary(rate)


def test_settings_of_a_transliteration_are_checked():
    with pytest.raises(ConfigError, match="overlap"):
        Transliteration(10, (0,), overlap=1.5)
    with pytest.raises(ConfigError, match="vocab_size"):
        Transliteration(10, (10,))


def test_names_compose_stages_from_left_to_right():
    settings = Settings(vocab_size=50, special_ids=(0, 1, 2), seed=1)
    both = make("trans+inv", settings)
    assert isinstance(both, Composition)
    assert both.text("a b c .".split())[0] == "c b a .".split()
    assert both.ids([0, 7, 9, 2])[0].tolist() == [0, 57, 59, 2]
    assert both.sentence("Oh no, no!")[0] == "no no, Oh!"
    assert both.pieces("a . b".split()) == [(0, 2), (2, 3)]
    assert both.pieces([]) == [(0, 0)]
    assert isinstance(make("inv", settings), Inversion)
    tokens = Settings(vocab_size=50, special_ids=(0, 1, 2), level="token")
    ids = [0, 7, 9, 2]
    for name in ("inv+trans", "trans+inv"):  # the order of trans is immaterial
        assert make(name, tokens).ids(ids)[0].tolist() == [0, 59, 57, 2]


@given(TAGGED, st.integers(0, 99))
def test_a_composition_returns_the_order_of_all_its_stages(tagged, number):
    words, tags = tagged
    both = make("perm+inv", Settings(seed=2))
    new_words, new_tags, order = both.tags(words, tags, number=number)
    once = Permutation(seed=2).tags(words, tags, number=number)
    assert new_words == INV.tags(*once[:2])[0] == move(words, order)
    assert new_tags == move_tags(tags, order)  # an entity torn apart may be together again


@pytest.mark.parametrize("name", ["", "trans+", "translit", "inv+inv", "trans,inv"])
def test_an_unknown_name_is_refused_with_those_there_are(name):
    with pytest.raises(ConfigError, match="trans, inv, perm, syn"):
        make(name, Settings())


def test_answers_are_found_again_in_an_inverted_context():
    context = "The Panthers (of Carolina, USA) beat the Broncos 24 to 10 in Paris."
    answers = [
        Answer(context.index(text), text)
        for text in (
            "Carolina",
            "Carolina, USA",
            "the Broncos",
            "24",
            "Paris",
            "in Paris.",
            "The Panthers",
            "of Carolina",
            "USA) beat",
        )
    ]
    qa = INV.qa(context, "Who won?", answers)
    assert qa.context == "Paris in 10 to 24 Broncos the beat USA) Carolina, (of Panthers The."
    assert qa.question == "won Who?"
    # cut words inside an answer are whole afterwards; at its ends they stay cut
    assert [a.text for a in qa.answers] == [
        "Carolina", "USA) Carolina,", "Broncos the", "24", "Paris", "Paris in",
        "Panthers The", "Carolina, (of", "beat USA)",
    ]  # fmt: skip
    assert all(qa.context[a.start :].startswith(a.text) for a in qa.answers)
    with pytest.raises(ValueError, match="has no"):
        INV.qa(context, "?", [Answer(0, "Panthers")])


def test_an_answer_whose_words_were_parted_is_none_and_others_keep_their_edges():
    class Swap(Transformation):
        def order(self, words, *, number=0, tags=None, tree=None):
            return np.array([1, 0, *range(2, len(words))])

    context = 'one two "three four" five'
    qa = Swap().qa(context, "q r", [Answer(4, 'two "three'), Answer(9, "three four")])
    assert qa.context == 'two one "three four" five'
    assert qa.answers == (None, Answer(9, "three four"))
