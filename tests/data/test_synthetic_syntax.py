"""CoNLL-U trees and the reordering of dependents: by hand, on tiny treebanks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.data.synthetic import Answer, Inversion, Settings, Syntax, learn_order, make
from jalign.data.synthetic.conllu import format_tree, join_trees, parse_conllu
from jalign.data.synthetic.corpus import derive_nli
from jalign.errors import BadData, ConfigError


def tree_of(text):
    """Make a tree from `word/TAG/head/relation` items."""
    rows = [item.rsplit("/", 3) for item in text.split()]
    lines = [
        "\t".join([str(i), word, word, tag, "_", "_", head, relation, "_", "_"])
        for i, (word, tag, head, relation) in enumerate(rows, 1)
    ]
    return next(parse_conllu([*lines, ""], "by hand"))


def table(*texts):
    """Learn an order from sentences seen 20 times each, which is enough to count."""
    return learn_order(tree_of(text) for text in texts for _ in range(20))


# det and adjective before the noun, object after the verb; and the mirror image of it
FRONT = "the/DET/3/det red/ADJ/3/amod car/NOUN/4/nsubj hit/VERB/0/root trees/NOUN/4/obj"
BACK = "trees/NOUN/2/obj hit/VERB/0/root car/NOUN/2/nsubj red/ADJ/3/amod the/DET/3/det"
TREE = """# sent_id = 7
# text = Don't go.
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\t_\t_\t3\taux\t3:aux\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
2.1\tyou\tyou\tPRON\t_\t_\t_\t_\t3:nsubj\t_
3\tgo\tgo\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No|Gloss=x
4\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_
"""


def test_dependents_take_the_side_of_the_target():
    syntax = Syntax(table(FRONT), table(BACK))
    new, order = syntax.tree(tree_of(FRONT))
    assert new.words == ("trees", "hit", "car", "red", "the")
    assert order.tolist() == [4, 3, 2, 1, 0]
    assert new.heads.tolist() == [1, -1, 1, 2, 2]
    assert syntax.tree(new)[0].words == new.words  # already there: nothing to flip
    back = Syntax(table(BACK), table(FRONT)).tree(new)[0]
    assert back.words == tree_of(FRONT).words


def test_what_was_counted_is_what_was_seen():
    counts = table(FRONT)
    assert counts.num_sentences == 20
    assert counts.before["noun", "amod"] == (20, 20) == counts.before["noun", "amod", "ADJ"]
    assert counts.before["verb", "obj"] == (0, 20)
    assert counts.farther["noun", "before", "amod", "det"] == (0, 20)  # det is the farther
    assert counts.before_frac(("noun", "amod", "ADJ")) == 1.0
    assert counts.before_frac(("noun", "amod", "VERB")) == 1.0  # backs off to the relation
    assert counts.before_frac(("noun", "nmod", "NOUN")) is None
    mixed = table(FRONT, BACK)
    assert mixed.before_frac(("noun", "det", "DET")) == pytest.approx(0.5)
    assert counts.distance(table(BACK)) == 1.0 and counts.distance(counts) == 0.0
    assert counts.distance(mixed) == pytest.approx(0.5)
    assert learn_order([tree_of("a/X/0/root")]).distance(counts) == 0.0


def test_distance_from_the_head_follows_the_target_too():
    near = "red/ADJ/3/amod the/DET/3/det car/NOUN/0/root"
    source = "the/DET/3/det red/ADJ/3/amod car/NOUN/0/root"
    new, _ = Syntax(table(source), table(near)).tree(tree_of(source), number=3)
    assert new.words == ("red", "the", "car")


def test_a_side_is_changed_as_often_as_the_languages_differ():
    front, back = "red/ADJ/2/amod car/NOUN/0/root", "car/NOUN/0/root red/ADJ/1/amod"
    source, target = table(*[front] * 4, back), table(front, *[back] * 3)  # 80 % and 25 % before
    syntax = Syntax(source, target, seed=1)
    fronts = [syntax.tree(tree_of(front), number=n)[0].words[0] == "red" for n in range(2000)]
    assert np.mean(fronts) == pytest.approx(0.25 / 0.8, abs=0.04)
    # what is behind already stays, so that of all 0.8 x 0.3125 = 25 % are before
    assert all(syntax.tree(tree_of(back), number=n)[0].words[0] == "car" for n in range(50))


def test_own_language_seldom_seen_relations_and_conventional_ones_stay():
    counts = table(FRONT, BACK)
    for text in (FRONT, BACK):
        for number in range(20):
            assert Syntax(counts, counts).tree(tree_of(text), number=number)[0] == tree_of(text)
    assert Syntax(table(FRONT), table("a/X/0/root")).tree(tree_of(FRONT))[0] == tree_of(FRONT)
    names = "Ann/PROPN/0/root Lee/PROPN/1/flat", "Lee/PROPN/2/flat Ann/PROPN/0/root"
    assert Syntax(table(names[0]), table(names[1])).tree(tree_of(names[0]))[1].tolist() == [0, 1]
    adjective = "very/ADV/2/advmod red/ADJ/0/root", "red/ADJ/0/root very/ADV/1/advmod"
    order = Syntax(table(adjective[0]), table(adjective[1])).tree(tree_of(adjective[0]))[1]
    assert order.tolist() == [0, 1]  # only nouns and verbs are reordered


def test_punctuation_goes_with_the_outer_dependent_and_the_final_mark_stays():
    source = "He/PRON/2/nsubj left/VERB/0/root ,/PUNCT/4/punct late/ADV/2/advmod ./PUNCT/2/punct"
    source = source.replace(",/PUNCT/4", ",/PUNCT/2")
    target = "late/ADV/3/advmod he/PRON/3/nsubj left/VERB/0/root"
    new, _ = Syntax(table(source), table(target)).tree(tree_of(source))
    assert new.words == ("late", ",", "He", "left", ".")


def test_a_tree_that_is_not_projective_comes_out_projective():
    crossing = tree_of("a/NOUN/3/obj b/ADV/4/advmod c/VERB/0/root d/VERB/3/conj")
    assert not crossing.is_projective
    new, order = Syntax(table(FRONT), table(FRONT)).tree(crossing)
    assert new.is_projective and new.words == ("a", "c", "b", "d")
    assert [(order[i], order[h]) for i, h in enumerate(new.heads) if h >= 0] == [
        (0, 2), (1, 3), (3, 2),
    ]  # fmt: skip
    assert not tree_of("a/X/3/dep b/X/0/root c/X/2/dep").is_projective  # the root under an arc


def test_syn_wants_a_tree_of_the_same_words():
    syntax = make("syn", Settings(source=table(FRONT), target=table(BACK)))
    with pytest.raises(ConfigError, match="parse the text"):
        syntax.text(["a"])
    with pytest.raises(ConfigError, match="5 words for a sentence of 1"):
        syntax.sentence("a", tree=tree_of(FRONT))
    with pytest.raises(ConfigError, match="learn_order"):
        make("trans+syn", Settings(vocab_size=9))
    with pytest.raises(ConfigError, match="no trees"):
        learn_order([])


def test_syn_moves_tags_pairs_and_answers_along():
    syntax, tree = Syntax(table(FRONT), table(BACK)), tree_of(FRONT)
    words, tags, _ = syntax.tags(tree.words, ["O", "O", "B-X", "O", "O"], tree=tree)
    assert words == "trees hit car red the".split() and tags == ["O", "O", "B-X", "O", "O"]
    text = " ".join(tree.words)
    rows = derive_nli([(text, text, "neutral")], syntax, parse=lambda _: tree)
    assert next(rows) == ("trees hit car red the", "trees hit car red the", "neutral")
    qa = syntax.qa(text, text, [Answer(4, "red car"), Answer(8, "car hit")], trees=(tree, tree))
    assert [a.text for a in qa.answers] == ["car red", "hit car"]
    both = make("syn+inv", Settings(source=table(FRONT), target=table(BACK)))
    assert both.tree(tree)[0].words == tree.words
    assert both.sentence(text, tree=tree)[0] == text
    other = make("inv+syn", Settings(source=table(FRONT), target=table(BACK)))
    assert other.tree(tree)[0].words == tree_of(BACK).words  # inverted it is BACK already
    assert other.sentence(text, tree=tree)[0] == "trees hit car red the"


def test_several_trees_become_one_with_several_roots():
    trees = [tree_of(FRONT), tree_of(FRONT)]
    joined = join_trees(trees)
    assert joined.heads.tolist() == [2, 2, 3, -1, 3, 7, 7, 8, -1, 8]
    new, order = Syntax(table(FRONT), table(BACK)).tree(joined)
    assert order.tolist() == [4, 3, 2, 1, 0, 9, 8, 7, 6, 5] and len(new.words) == 10
    assert join_trees([]).words == ()


def test_conllu_comes_back_as_it_was_but_for_what_is_left_out():
    tree = next(parse_conllu(TREE.split("\n"), "f"))
    assert tree.words == ("Do", "n't", "go", ".") and tree.tags[1] == "PART"
    assert tree.heads.tolist() == [2, 2, -1, 2] and tree.where == "f:1"
    expected = [line for line in TREE.split("\n") if not line.startswith("2.1")]
    assert format_tree(tree) == "\n".join([*expected, ""]).replace("3:aux", "_")
    assert tree.reorder(np.arange(4)) is tree


def test_a_reordered_tree_is_renumbered():
    tree = next(parse_conllu(TREE.split("\n"), "f"))
    new, order = Inversion().tree(tree)
    assert new.words == ("go", "n't", "Do", ".") and order.tolist() == [2, 1, 0, 3]
    assert new.heads.tolist() == [-1, 0, 0, 0] and new.relations == (
        "root", "advmod", "aux", "punct",
    )  # fmt: skip
    assert new.tokens == () and new.comments == ("# sent_id = 7", "# text = go n't Do .")
    assert new.rows[0][9] == "Gloss=x"
    moved = tree.reorder(np.array([3, 0, 1, 2]))
    assert moved.tokens[0][:2] == (1, 3) and "2-3\tDon't" in format_tree(moved)
    again = next(parse_conllu(format_tree(moved).split("\n"), "f"))
    assert format_tree(again) == format_tree(moved)


@given(st.data())
@settings(max_examples=60)
def test_any_tree_keeps_its_arcs_under_any_target(data):
    num = data.draw(st.integers(1, 12))
    tags = st.sampled_from(["NOUN", "VERB", "ADJ", "PUNCT"])
    relations = st.sampled_from(["amod", "obj", "nsubj", "punct", "flat"])
    places = data.draw(st.permutations(range(num)))
    heads = [0] * num
    for i in range(1, num):  # place i hangs from one before it, so there is no cycle
        heads[places[i]] = places[data.draw(st.integers(0, i - 1))] + 1
    items = [f"w{i}/{data.draw(tags)}/{h}/{data.draw(relations)}" for i, h in enumerate(heads)]
    tree = tree_of(" ".join(items))
    syntax = Syntax(table(FRONT), table(BACK), seed=data.draw(st.integers(0, 9)))
    new, order = syntax.tree(tree)
    assert sorted(order.tolist()) == list(range(num))
    arcs = {(int(order[i]), int(order[h]) if h >= 0 else -1) for i, h in enumerate(new.heads)}
    assert arcs == set(enumerate(tree.heads.tolist()))
    assert new.is_projective


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1\ta\ta", "got 3 columns"),
        ("x\ta\ta\tX\t_\t_\t0\troot\t_\t_", "the first 'x'"),
        ("2\ta\ta\tX\t_\t_\t0\troot\t_\t_", "word 2 where 1"),
        ("1-2\tab" + "\t_" * 8 + "\n1\ta\ta\tX\t_\t_\t0\troot\t_\t_", "not there"),
    ],
)
def test_what_is_no_conllu_is_refused_with_its_line(line, said):
    with pytest.raises(BadData, match=r"f:[12]: .*" + said):
        list(parse_conllu(["# c", *line.split("\n"), ""], "f"))


@pytest.mark.parametrize(
    ("heads", "said"), [("_ 1", "no head"), ("0 9", "outside"), ("2 1", "cycle"), ("2 2", "cycle")]
)
def test_what_is_no_tree_is_refused(heads, said):
    with pytest.raises(BadData, match=said):
        first, second = heads.split()
        _ = tree_of(f"a/X/{first}/dep b/X/{second}/dep").heads
