"""Lexicons: EM learns what it should, agrees with fast_align, keeps its promises on disk."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from jalign.data.columns import Side
from jalign.data.lexicon import Lexicon, load_lexicon, save_lexicon
from jalign.data.lexicon_cells import Pairs
from jalign.data.lexicon_em import LexiconConfig, exp_digamma, train_lexicon
from jalign.errors import BadData, ConfigError

PLAIN = LexiconConfig(model1_iterations=2, diagonal_iterations=3, agree=False, null=0.08, prune=0.0)
# what `fast_align -d -v -I 5` does: its fifth iteration only decodes
FAST_ALIGN = LexiconConfig(
    model1_iterations=0, diagonal_iterations=4, agree=False, alpha=0.01, null=0.08,
    tension=4.0, fit_tension=False, prune=0.0,
)  # fmt: skip


def side_of(sentences):
    offsets = np.cumsum([0, *map(len, sentences)])
    ids = np.array([i for sentence in sentences for i in sentence], np.uint16)
    return Side(offsets, ids, np.concatenate([np.arange(len(s)) for s in sentences]))


def train(pairs, config=PLAIN, vocab_size=60):
    return train_lexicon(
        [tuple(side_of(side) for side in zip(*pairs, strict=True))],
        vocab_size=vocab_size,
        config=config,
    )


def flat(pairs):
    return Pairs.of(*([np.array(s, np.int32) for s in side] for side in zip(*pairs, strict=True)))


def dense(lexicon):
    """Return the tables [source, target] of both directions."""
    size = lexicon.vocab_size
    tables = np.zeros((2, size, size))
    at = (lexicon.keys_K >> np.uint64(32)).astype(int), (lexicon.keys_K & 0xFFFFFFFF).astype(int)
    tables[0][at], tables[1][at] = lexicon.forward_K, lexicon.backward_K
    return tables


@pytest.fixture(scope="module")
def artificial():
    """Return sentences of a language with their images, in which every word has another name and
    moved a few places; the renaming; and the true links. No word comes twice in a
    sentence, so that there is one truth.
    """
    rng = np.random.default_rng(0)
    rename = rng.permutation(50) + 5
    pairs, links = [], []
    for _ in range(300):
        src = rng.permutation(50)[: int(rng.integers(3, 12))]
        order = np.argsort(np.arange(len(src)) + rng.normal(0, 2, len(src)))
        pairs.append((src.tolist(), rename[src[order]].tolist()))
        links.append({(int(i), j) for j, i in enumerate(order)})
    return pairs, rename, links


@pytest.mark.parametrize("agree", [False, True])
def test_a_renamed_language_is_learned_exactly(artificial, agree):
    pairs, rename, links = artificial
    # a small `null`: of a short sentence's far links the empty word would take some
    lexicon = train(pairs, LexiconConfig(agree=agree, null=1e-3))
    forward, backward = dense(lexicon)
    assert (forward[:50].argmax(axis=1) == rename).all()
    assert (backward[:, rename].argmax(axis=0) == np.arange(50)).all()
    assert forward[np.arange(50), rename].min() > 0.9
    for sides, truth in zip(lexicon.align(flat(pairs)), links, strict=True):
        assert [{tuple(link) for link in side.tolist()} for side in sides] == [truth, truth]


def test_training_equals_fast_align_on_a_small_corpus():
    text = [
        ("the house", "das haus"), ("the small house", "das kleine haus"), ("a book", "ein buch"),
        ("the book is small", "das buch ist klein"), ("a house", "ein haus"),
        ("is the book here", "ist das buch hier"),
    ]  # fmt: skip
    vocab = {w: i for i, w in enumerate(dict.fromkeys(" ".join(map(" ".join, text)).split()))}
    pairs = [tuple([vocab[w] for w in side.split()] for side in pair) for pair in text]
    lexicon = train(pairs, FAST_ALIGN, vocab_size=len(vocab))
    # printed by fast_align cab1e9a on these lines, -d -v -p FILE, and once more with -r; its first
    # iteration starts from numbers that do not add up to one, so the second is the first to compare
    num_pieces = sum(len(trg) for _, trg in pairs)
    history = np.array(lexicon.details["log_likelihood"]) * num_pieces
    np.testing.assert_allclose(history[1:, 0], [-17.8902, -9.94597, -9.77237], rtol=1e-5)
    np.testing.assert_allclose(history[1:, 1], [-15.8551, -7.96124, -7.79749], rtol=1e-5)
    printed = {
        ("a", "ein"): -0.0127391, ("book", "buch"): -0.0194812, ("here", "hier"): -0.0476106,
        ("house", "haus"): -0.0117337, ("is", "ist"): -0.0253224, ("small", "klein"): -1.02166,
        ("small", "kleine"): -1.02166, ("the", "das"): -0.0168398,
    }  # fmt: skip
    forward = dense(lexicon)[0]
    for (src, trg), log_t in printed.items():
        assert np.log(forward[vocab[src], vocab[trg]]) == pytest.approx(log_t, rel=1e-4)
    assert (forward > 1e-6).sum() == len(printed)


def loop_shares(src, trg, vocab_size):
    """Return the share of each source piece in each target piece, by position alone, and log p."""
    shares, log_p = np.zeros((len(src), len(trg))), 0.0
    for j in range(len(trg)):
        near = [
            np.exp(-4.0 * abs((i + 1) / len(src) - (j + 1) / len(trg))) for i in range(len(src))
        ]
        joint = 0.92 * np.array(near) / sum(near) / vocab_size
        shares[:, j] = joint / (joint.sum() + 0.08 / vocab_size)
        log_p += np.log(joint.sum() + 0.08 / vocab_size)
    return shares, log_p


@pytest.mark.parametrize("agree", [False, True])
def test_one_iteration_equals_a_loop_over_sentences(artificial, agree):
    pairs = [*artificial[0][:40], ([1], [2, 2, 3]), ([4, 4, 4, 5], [6])]
    config = replace(FAST_ALIGN, diagonal_iterations=1, alpha=0.0, agree=agree)
    lexicon = train(pairs, config)
    counts, log_p = np.zeros((2, 60, 60)), np.zeros(2)
    for src, trg in pairs:
        forward, log_forward = loop_shares(src, trg, 60)
        backward, log_backward = loop_shares(trg, src, 60)
        both = np.array([forward, backward.T])
        both = np.broadcast_to(both.prod(axis=0), both.shape) if agree else both
        log_p += log_forward, log_backward
        for i, given in enumerate(src):
            for j, made in enumerate(trg):
                counts[:, given, made] += both[:, i, j]
    counts[0] /= np.maximum(counts[0].sum(axis=1, keepdims=True), 1e-30)
    counts[1] /= np.maximum(counts[1].sum(axis=0, keepdims=True), 1e-30)
    np.testing.assert_allclose(dense(lexicon), counts, rtol=1e-5, atol=1e-9)
    log_p /= [sum(len(pair[side]) for pair in pairs) for side in (1, 0)]
    np.testing.assert_allclose(lexicon.details["log_likelihood"][0], log_p, rtol=1e-6)


def test_the_likelihood_never_falls(artificial):
    config = replace(PLAIN, model1_iterations=4, diagonal_iterations=8)
    lexicon = train(artificial[0], config)
    history = np.array(lexicon.details["log_likelihood"])
    assert (np.diff(history, axis=0) > -1e-6).all()
    assert (history[-1] - history[0] > 1).all()
    assert min(lexicon.tension) > 3  # words moved a few places, no more


def test_exp_digamma_equals_the_known_values():
    gamma = 0.5772156649015329
    known = {1.0: -gamma, 0.5: -gamma - 2 * np.log(2), 0.01: -100.56088545786867, 3.0: 1.5 - gamma}
    np.testing.assert_allclose(
        exp_digamma(np.array([*known])), np.exp([*known.values()]), rtol=1e-8
    )


def test_posteriors_and_the_empty_word_add_up_to_one(artificial):
    pairs = flat(artificial[0])
    cells, posteriors = train(artificial[0]).posteriors(pairs)
    for direction, share in enumerate(posteriors):
        total = np.bincount(cells.made(direction), share.cell_N) + share.null_M
        np.testing.assert_allclose(total, 1, atol=1e-5)
        assert share.cell_N.min() >= 0 and share.null_M.min() > 0


def test_swapping_the_sides_swaps_the_directions(artificial):
    lexicon, other = train(artificial[0]), train([pair[::-1] for pair in artificial[0]])
    tables, others = dense(lexicon), dense(other)
    np.testing.assert_allclose(tables[0], others[1].T, atol=1e-5)
    np.testing.assert_allclose(tables[1], others[0].T, atol=1e-5)
    np.testing.assert_allclose(lexicon.null_forward_V, other.null_backward_V, atol=1e-5)
    np.testing.assert_allclose(lexicon.tension, other.tension[::-1], atol=0.02)


@pytest.mark.parametrize("config", [PLAIN, LexiconConfig(prune=0.0)])
def test_blocks_change_nothing(artificial, config, monkeypatch):
    text = artificial[0][:80]
    whole = train(text, config)
    monkeypatch.setattr("jalign.data.lexicon_em._MERGE_KEYS", 100)
    for block_cells in (1, 500):
        cut = train(text, replace(config, block_cells=block_cells))
        np.testing.assert_array_equal(cut.keys_K, whole.keys_K)
        np.testing.assert_allclose(cut.forward_K, whole.forward_K, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(cut.tension, whole.tension, atol=0.02)
        history, expected = (x.details["log_likelihood"] for x in (cut, whole))
        np.testing.assert_allclose(history, expected, rtol=1e-5)
    pairs = flat(text)
    parts = [whole.posteriors(part)[1][0].cell_N for _, part in pairs.blocks(500)]
    assert len(parts) > 5
    joined = whole.posteriors(pairs)[1][0].cell_N
    np.testing.assert_allclose(np.concatenate(parts), joined, rtol=1e-6)
    links, hard = whole.links(pairs), whole.align(pairs)
    monkeypatch.setattr("jalign.data.lexicon_cells.BLOCK_CELLS", 500)
    for one, other in zip(links, whole.links(pairs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(hard, whole.align(pairs), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_pruning_leaves_out_what_is_small_in_both_directions_and_moves_no_link(artificial):
    whole, pruned = (train(artificial[0], replace(PLAIN, prune=p)) for p in (0.0, 1e-5))
    kept = np.maximum(whole.forward_K, whole.backward_K) >= 1e-5
    assert 0 < kept.sum() < 0.8 * len(kept)
    np.testing.assert_array_equal(pruned.keys_K, whole.keys_K[kept])
    np.testing.assert_array_equal(pruned.backward_K, whole.backward_K[kept])
    pairs = flat(artificial[0])
    before, after = whole.links(pairs), pruned.links(pairs)
    np.testing.assert_array_equal(before.src_A, after.src_A)
    np.testing.assert_allclose(before.weight_A, after.weight_A, atol=1e-3)


def test_links_are_the_geometric_means_above_the_threshold_and_the_best_of_each_source(artificial):
    lexicon, pairs = train(artificial[0]), flat(artificial[0][:30])
    for threshold, top in ((0.0, 2), (0.01, 99), (0.3, 1)):
        links = lexicon.links(pairs, threshold=threshold, top=top).split(30)
        for (src, trg), (links_A2, weight_A) in zip(artificial[0], links, strict=False):
            one = flat([(src, trg)])
            _, (forward, backward) = lexicon.posteriors(one)
            weight = np.sqrt(forward.cell_N * backward.cell_N).reshape(len(src), len(trg))
            expected = {}
            for i, row in enumerate(weight):
                for j in np.argsort(-row, kind="stable")[:top]:
                    if row[j] >= threshold:
                        expected[i, int(j)] = row[j]
            got = dict(zip(map(tuple, links_A2.tolist()), weight_A, strict=True))
            assert list(got) == sorted(got)
            assert got == pytest.approx(expected, abs=1e-6)
            alone = lexicon.pair_links(np.array(src), np.array(trg), threshold=threshold, top=top)
            np.testing.assert_array_equal(alone[0], links_A2)


def test_empty_sides_and_unseen_pieces_are_no_error(artificial):
    lexicon = train(artificial[0])
    pairs = flat(
        [([], [7, 8]), ([1, 2], []), ([], []), ([58, 59], [58, 59]), ([1], [int(artificial[1][1])])]
    )
    links = lexicon.links(pairs, threshold=0.5).split(5)
    assert [len(links_A2) for links_A2, _ in links] == [0, 0, 0, 2, 1]
    assert [len(f) for f, _ in lexicon.align(pairs)] == [0, 0, 0, 2, 1]
    assert lexicon.links(flat([([], [])])).split(1)[0][0].shape == (0, 2)


def test_every_entry_is_found_and_nothing_else(artificial):
    lexicon = train(artificial[0], replace(PLAIN, prune=0.01))
    keys = np.arange(60, dtype=np.uint64) << np.uint64(32)
    keys = (keys[:, None] | np.arange(60, dtype=np.uint64)).ravel()
    for found, table in zip(lexicon.find(keys), dense(lexicon), strict=True):
        np.testing.assert_array_equal(found, np.maximum(table.ravel(), 1e-9).astype(np.float32))
    nothing = train(
        artificial[0], replace(PLAIN, model1_iterations=1, diagonal_iterations=0, prune=0.9)
    )
    assert nothing.keys_K.size == 0
    assert nothing.align(flat([([1], [2])]))[0][0].tolist() == [[0, 0]]


def test_what_neither_side_has_seen_is_shared_by_position_alone(artificial):
    lexicon = train(artificial[0])
    _, (forward, backward) = lexicon.posteriors(flat([([58], [59])]))
    for share in (forward, backward):
        assert share.cell_N[0] == pytest.approx(0.92, rel=1e-5)
        assert share.null_M[0] == pytest.approx(0.08, rel=1e-5)


def test_a_word_without_counterpart_is_left_to_the_empty_word(artificial):
    rng = np.random.default_rng(1)
    particle, pairs, added = 57, [], []
    for number, (src, trg) in enumerate(artificial[0]):
        added.append(int(rng.integers(0, len(trg) + 1)) if number % 2 else -1)
        at = added[-1]
        pairs.append((src, trg if at < 0 else [*trg[:at], particle, *trg[at:]]))
    lexicon = train(pairs, LexiconConfig())
    for at, (forward, _) in zip(added, lexicon.align(flat(pairs)), strict=True):
        assert at not in forward[:, 1]
        assert len(forward) > 0


def test_long_pairs_are_left_out_and_much_text_is_thinned(artificial):
    config = replace(PLAIN, max_length=8)
    short = [p for p in artificial[0] if len(p[0]) <= 8]
    lexicon = train(artificial[0], config)
    assert lexicon.details["num_left_out"] == len(artificial[0]) - len(short)
    np.testing.assert_array_equal(lexicon.forward_K, train(short).forward_K)
    thin = train(artificial[0], replace(PLAIN, max_cells=10_000))
    assert thin.details["stride"] > 1
    np.testing.assert_array_equal(
        thin.forward_K, train(artificial[0][:: thin.details["stride"]]).forward_K
    )
    sides = [tuple(side_of(s) for s in zip(*part, strict=True)) for part in (short[:9], short[9:])]
    both = train_lexicon(sides, vocab_size=60, config=PLAIN)
    np.testing.assert_array_equal(both.forward_K, train(short).forward_K)


def test_a_lexicon_comes_back_and_the_same_text_gives_the_same_bytes(artificial, tmp_path):
    paths = [tmp_path / name for name in ("a.npz", "b.npz")]
    for path in paths:
        lexicon = replace(train(artificial[0]), tokenizer_sha256="ab" * 32)
        save_lexicon(path, lexicon)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    read = load_lexicon(paths[0], tokenizer_sha256="ab" * 32)
    assert isinstance(read, Lexicon) and read.vocab_size == 60
    for name in ("keys_K", "forward_K", "backward_K", "null_forward_V", "null_backward_V"):
        np.testing.assert_array_equal(getattr(read, name), getattr(lexicon, name))
    assert (read.tension, read.null) == (lexicon.tension, lexicon.null)
    assert read.details == json.loads(json.dumps(lexicon.details))


def test_a_file_that_fails_half_way_leaves_the_old_one(artificial, tmp_path):
    path = tmp_path / "a.npz"
    lexicon = train(artificial[0])
    save_lexicon(path, lexicon)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="could not convert"):
        save_lexicon(path, replace(lexicon, backward_K=["x"]))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_wrong_tokenizer_or_file_is_named(artificial, tmp_path):
    path = tmp_path / "a.npz"
    lexicon = replace(train(artificial[0]), tokenizer_sha256="ab" * 32)
    save_lexicon(path, lexicon)
    with pytest.raises(ConfigError, match="tokenizer abababababab, but the data has cdcdcdcd"):
        load_lexicon(path, tokenizer_sha256="cd" * 32)
    with pytest.raises(ConfigError, match="no such file; train a lexicon"):
        load_lexicon(tmp_path / "b.npz")
    for damage in (b"", b"text", path.read_bytes()[:-200], path.read_bytes()[:300]):
        (tmp_path / "c.npz").write_bytes(damage)
        with pytest.raises(BadData, match="is no lexicon, or damaged"):
            load_lexicon(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", about=np.array([{}], object))
    with pytest.raises(BadData, match="is no lexicon, or damaged"):
        load_lexicon(tmp_path / "d.npz")
    save_lexicon(tmp_path / "e.npz", replace(lexicon, keys_K=lexicon.keys_K[::-1]))
    with pytest.raises(BadData, match="the keys are not in order"):
        load_lexicon(tmp_path / "e.npz")
    save_lexicon(tmp_path / "f.npz", replace(lexicon, forward_K=lexicon.forward_K[1:]))
    with pytest.raises(BadData, match="forward_K has shape"):
        load_lexicon(tmp_path / "f.npz")


def test_a_lexicon_of_another_version_is_refused(artificial, tmp_path, monkeypatch):
    monkeypatch.setattr("jalign.data.lexicon.FORMAT_VERSION", 2)
    save_lexicon(tmp_path / "a.npz", train(artificial[0]))
    monkeypatch.undo()
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        assert all(name.endswith(".npy") for name in file.namelist())
    with pytest.raises(BadData, match="version 2, this jalign reads 1"):
        load_lexicon(tmp_path / "a.npz")


def test_bad_input_is_named(artificial):
    pairs = artificial[0]
    with pytest.raises(BadData, match=r"piece ids 5 to 54 in a vocabulary of 50"):
        train(pairs, vocab_size=50)
    with pytest.raises(BadData, match=r"of 2 pairs in 1 sources none has two sides of 1 to 200"):
        train([([], [1]), ([1], [])])
    with pytest.raises(BadData, match="0 pairs in 0 sources"):
        train_lexicon([], vocab_size=60)
    with pytest.raises(BadData, match="2 source and 1 target sides"):
        train_lexicon([(side_of([[1], [2]]), side_of([[1]]))], vocab_size=60)
    with pytest.raises(BadData, match="1 source and 0 target sides"):
        Pairs.of([np.array([1])], [])
    with pytest.raises(BadData, match="piece ids 1 to 60, but the lexicon"):
        train(pairs).pair_links(np.array([1, 60]), np.array([1]))


@pytest.mark.parametrize(
    "entry",
    [{"null": 0.0}, {"alpha": -1.0}, {"prune": 1.0}, {"max_cells": 0}, {"tension": 31.0}],
)
def test_numbers_out_of_range_are_named(entry):
    with pytest.raises(ConfigError, match=f"lexicon {next(iter(entry))}=.*need"):
        LexiconConfig(**entry)
    with pytest.raises(ConfigError, match="0 iterations train nothing"):
        LexiconConfig(model1_iterations=0, diagonal_iterations=0)
