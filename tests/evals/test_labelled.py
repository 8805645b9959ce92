"""Tagging, classification, QA: predictions equal transformers' one by one, scores the packages'."""

from __future__ import annotations

import json
import re
import warnings

import jax
import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score
from sklearn.metrics import accuracy_score

from jalign import config
from jalign.data.pipeline import StreamConfig
from jalign.data.records import Manifest
from jalign.data.rows import Specials
from jalign.data.tasks import conllu, nli, qa
from jalign.data.tasks.encode import encode_pairs, encode_tags
from jalign.data.tasks.rows import TaskData
from jalign.data.tasks.spans import best_answers, encode_questions, span_text
from jalign.data.tokenizer import train_tokenizer
from jalign.errors import BadData, ConfigError
from jalign.evals import classification, tagging
from jalign.evals import qa as qa_eval
from jalign.metrics.span_f1 import span_scores
from jalign.train.mesh import MeshConfig, make_mesh, put_batch, replicated
from jalign.types import EvalSetting
from tests.objectives.labelled import TASKS, encoder_of, head_of, make_torch
from tests.tiny import WORDS, sentences

UPOS = ("ADJ", "NOUN", "VERB", "X", "SYM")
IOB = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NLI = ("contradiction", "entailment", "neutral", "odd", "even")
MAX_UNIT = 24


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(sentences(0, 800), tmp_path_factory.mktemp("tokenizer"), 76)


@pytest.fixture(scope="module")
def models():
    """Return transformers' model of each kind."""
    return {name: make_torch(name) for name in TASKS}


def make_setting(models, name, task, tokenizer, workdir, devices=1):
    """Return a setting on as many devices, and our parameters with the model's weights."""
    encoder, params = encoder_of(models[name], num_groups=devices)
    encoder = encoder._replace(labels={"task": task.labels})
    objective = TASKS[name].module.make(TASKS[name].config(), encoder)
    mesh = make_mesh(MeshConfig(data=devices), jax.devices()[:devices])
    specials = Specials(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    shape = StreamConfig(TASKS[name].layout, 4, 64, MAX_UNIT, task=task)
    setting = EvalSetting(
        Manifest(workdir, "", ("en",), "", tokenizer.vocab_size, ()),
        specials,
        {"task": shape},
        {name: objective},
        encoder,
        lambda batch, rows: put_batch(batch, mesh, rows),
        replicated(mesh),
        tokenizer,
        workdir,
    )
    return setting, {"encoder": params, name: head_of(name, models[name])}


def frame(tokenizer, *texts):
    """Lay out texts as a row of one example."""
    ids = [tokenizer.bos_id]
    for text in texts:
        ids += [*text.tolist(), tokenizer.eos_id]
    return ids


def logits_of(model, ids):
    ids = torch.tensor([ids])
    with torch.no_grad():
        return model(ids, attention_mask=torch.ones_like(ids))


def write_tree(path, seed, labels, num=30):
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(num):
        for i in range(1, rng.integers(2, 20)):
            word = rng.choice([*WORDS, "New York", "\u200b"])
            lines.append(f"{i}\t{word}\t_\t{rng.choice(labels)}\t_\t_\t0\troot\t_\t_")
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_pairs(path, seed, labels, num=40):
    rng = np.random.default_rng(seed)
    pairs = zip(sentences(seed, num), sentences(seed + 1, num), strict=True)
    rows = [f"{a}\t{b}\t{rng.choice(labels)}" for a, b in pairs]
    path.write_text("\n".join(["sentence1\tsentence2\tgold_label", *rows]) + "\n")
    return path


def write_questions(path, seed, num=12, size=3):
    rng = np.random.default_rng(seed)
    paragraphs = []
    for p in range(num):
        context = ". ".join(sentences(seed + p, 5)) + "."
        words = context.split()
        qas = []
        for q in range(2):
            at = int(rng.integers(len(words) - size))
            text = " ".join(words[at : at + size])
            answers = [{"answer_start": context.index(text), "text": text}]
            answers += [{"answer_start": 0, "text": words[0]}] * int(rng.integers(2))
            question = " ".join(rng.choice(WORDS, 3))
            qas.append({"id": f"{seed}-{p}-{q}", "question": question, "answers": answers})
        paragraphs.append({"context": context, "qas": qas})
    path.write_text(json.dumps({"data": [{"paragraphs": [p]} for p in paragraphs]}))
    return path


def run(module, entries, setting, params):
    cfg = config.build(module.Config, entries, "config.evaluate.tasks.test")
    return list(module.make(cfg, setting)(params))


def scores_of(results):
    return {(r.lang, r.metric): r.value for r in results}


def read_tags(path):
    """Read a prediction file as XTREME's evaluate.py does: a tag a line, blank lines between."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [block.split("\n") for block in blocks if block]


@pytest.mark.parametrize("labels", [UPOS, IOB], ids=["upos", "iob"])
def test_tags_equal_transformers_sentence_by_sentence(tokenizer, models, tmp_path, labels):
    sets = {lang: write_tree(tmp_path / lang, i, labels) for i, lang in enumerate(("en", "zh"))}
    task = TaskData("conllu", (), labels)
    setting, params = make_setting(models, "tag", task, tokenizer, tmp_path)
    entries = dict(
        sets=[f"{lang}={path}" for lang, path in sets.items()],
        name="udpos",
        predictions="out",
        rows=3,
    )
    with pytest.warns(UserWarning, match="udpos: zh=.*sentence cut into windows: "):
        results = run(tagging, entries, setting, params)
    scores = scores_of(results)
    for lang, path in sets.items():
        records = list(conllu.read(path))
        wanted = [[""] * len(s.words) for s in records]
        for window in encode_tags(tokenizer, records, labels, max_unit=MAX_UNIT):
            out = logits_of(models["tag"], frame(tokenizer, window.ids)).logits[0, 1:-1]
            for at in np.flatnonzero(window.scored):
                wanted[window.sentence][window.word[at]] = labels[int(out[at].argmax())]
        found = read_tags(tmp_path / "out" / "udpos" / f"test-{lang}.tsv")
        assert found == wanted
        gold = [list(s.tags) for s in records]
        flat = [[tag for tags in x for tag in tags] for x in (gold, found)]
        assert scores[lang, "accuracy"] == pytest.approx(accuracy_score(*flat))
        if labels is IOB:
            assert scores[lang, "f1"] == pytest.approx(f1_score(gold, found))
        else:
            assert scores[lang, "f1"] == span_scores(gold, found, whole_tags=True).micro.f1
            assert scores[lang, "f1"] != span_scores(gold, found).micro.f1
    for metric in ("f1", "accuracy"):
        mean = (scores["en", metric] + scores["zh", metric]) / 2
        assert scores["avg", metric] == pytest.approx(mean)
    assert {r.task for r in results} == {"udpos"} and 0 < scores["avg", "f1"] < 1
    assert next(r.n for r in results if (r.lang, r.metric) == ("en", "f1")) == 30


def test_classes_equal_transformers_pair_by_pair(tokenizer, models, tmp_path):
    path = write_pairs(tmp_path / "en", 5, NLI)
    task = TaskData("nli", (), NLI)
    setting, params = make_setting(models, "classify", task, tokenizer, tmp_path)
    entries = dict(sets=[f"en={path}"], predictions="out")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pair cut to fit")
        results = run(classification, entries, setting, params)
    wanted, gold = [], []
    for pair in encode_pairs(tokenizer, nli.read(path), NLI, max_unit=MAX_UNIT):
        out = logits_of(models["classify"], frame(tokenizer, pair.first, pair.second)).logits[0]
        wanted.append(NLI[int(out.argmax())])
        gold.append(NLI[pair.label])
    found = (tmp_path / "out/classify/test-en.tsv").read_text().split("\n")
    assert found == [*wanted, ""] and len(set(wanted)) > 1
    assert scores_of(results) == {
        ("en", "accuracy"): pytest.approx(accuracy_score(gold, wanted)),
        ("avg", "accuracy"): pytest.approx(accuracy_score(gold, wanted)),
    }
    assert [r.n for r in results] == [40, 40]


def answer_by_loops(tokenizer, model, questions, max_pieces):
    """Answer with transformers window by window, over all spans."""
    best = {}
    lengths = dict(max_unit=MAX_UNIT, max_question=MAX_UNIT // 3, stride=MAX_UNIT // 3)
    windows = encode_questions(tokenizer, questions, **lengths)
    for window in windows:
        ids = frame(tokenizer, window.question_ids, window.context.ids)
        out, begin = logits_of(model, ids), window.question_ids.size + 2
        start, end = (x[0].numpy()[begin:-1] for x in (out.start_logits, out.end_logits))
        question = questions[window.question]
        for i in np.flatnonzero(window.charged):
            for j in range(i, min(i + max_pieces, start.size)):
                score = start[i] + end[j]
                if score > best.get(question.id, (-np.inf, ""))[0]:
                    best[question.id] = score, span_text(question.context, window.context, i, j)
    return {name: text for name, (_, text) in best.items()}


def squad_scores(gold, found):
    """Score an answer as SQuAD v1.1's script: (F1, exact match)."""
    words = [re.sub(r"\b(a|an|the)\b", " ", re.sub(r"[^\w\s]", "", text.lower())).split()
             for text in (gold, found)]  # fmt: skip
    same = sum(min(words[0].count(w), words[1].count(w)) for w in set(words[0]))
    return 2 * same / max(len(words[0]) + len(words[1]), 1), float(words[0] == words[1])


def test_answers_equal_transformers_window_by_window(tokenizer, models, tmp_path):
    path = write_questions(tmp_path / "en", 3)
    setting, params = make_setting(models, "span", TaskData("qa"), tokenizer, tmp_path)
    entries = dict(sets=[f"en={path}"], name="xquad", predictions="out", max_pieces=7)
    with pytest.warns(UserWarning, match="context in several windows: "):
        results = run(qa_eval, entries, setting, params)
    questions = list(qa.read(path))
    wanted = answer_by_loops(tokenizer, models["span"], questions, 7)
    found = json.loads((tmp_path / "out/xquad/test-en.json").read_text())
    assert found == wanted
    texts = {q.id: [a.text for a in q.answers] for q in questions}
    for k, metric in enumerate(("f1", "exact_match")):
        best = [max(squad_scores(x, found[name])[k] for x in gold) for name, gold in texts.items()]
        assert scores_of(results)["en", metric] == pytest.approx(np.mean(best))
    assert scores_of(results)["avg", "f1"] > 0 and {r.n for r in results} == {24}


@pytest.mark.parametrize("max_pieces, size", [(3, 3), (30, 6)], ids=["long", "cut"])
def test_gold_answers_that_no_model_can_give_are_counted_and_said(
    tokenizer, models, tmp_path, max_pieces, size
):
    path = write_questions(tmp_path / "en", 3, num=30, size=size)
    questions = list(qa.read(path))
    windows = list(encode_questions(tokenizer, questions, max_unit=24, max_question=8, stride=8))
    scores = [np.zeros((2, w.context.ids.size), np.float32) for w in windows]
    for window, (start, stop) in zip(windows, scores, strict=True):
        if window.start >= 0:
            start[window.start] = stop[window.stop] = 5  # a model that knows the answer
    found = best_answers(questions, windows, scores, max_pieces=max_pieces)
    inside = {w.question for w in windows if w.start >= 0}
    lost = [i for i in inside if questions[i].answers[0].text not in found[questions[i].id]]
    assert 0 < len(lost) == qa_eval.count_out_of_reach(windows, max_pieces) < len(inside)
    setting, params = make_setting(models, "span", TaskData("qa"), tokenizer, tmp_path)
    with pytest.warns(UserWarning, match=rf"gold answer longer than {max_pieces} .*: {len(lost)}$"):
        run(qa_eval, dict(sets=[f"en={path}"], max_pieces=max_pieces), setting, params)


def test_several_devices_and_any_batch_give_the_same_files(tokenizer, models, tmp_path):
    path = write_questions(tmp_path / "en", 3)
    texts = []
    for devices, rows in ((1, 16), (8, 3)):
        workdir = tmp_path / str(devices)
        setting, params = make_setting(models, "span", TaskData("qa"), tokenizer, workdir, devices)
        entries = dict(sets=[f"en={path}"], predictions="out", rows=rows, limit=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(qa_eval, entries, setting, params)
        texts.append((workdir / "out/span/test-en.json").read_text())
    assert texts[0] == texts[1] and len(json.loads(texts[0])) == 8


def test_the_language_decides_the_normalisation_where_mlqas_is_asked_for(
    tokenizer, models, tmp_path
):
    """The gold answer is `Hund`, the model's `der Hund`: wrong by English rules only."""
    question = {"id": "1", "question": "?", "answers": [{"answer_start": 4, "text": "Hund"}]}
    data = {"data": [{"paragraphs": [{"context": "der Hund", "qas": [question]}]}]}
    path = tmp_path / "de"
    path.write_text(json.dumps(data))
    setting, params = make_setting(models, "span", TaskData("qa"), tokenizer, tmp_path)
    for rule, f1, exact in (("squad", 2 / 3, 0.0), ("mlqa", 1.0, 1.0)):
        entries = dict(sets=[f"de={path}"], normalize=rule, predictions="out")
        scores = scores_of(run(qa_eval, entries, setting, params))
        assert json.loads((tmp_path / "out/span/test-de.json").read_text()) == {"1": "der Hund"}
        assert scores["de", "f1"] == pytest.approx(f1) and scores["de", "exact_match"] == exact


def test_what_is_absent_is_said_and_the_rest_is_scored(tokenizer, models, tmp_path):
    path = write_tree(tmp_path / "en", 1, UPOS, num=3)
    task = TaskData("conllu", (), UPOS)
    setting, params = make_setting(models, "tag", task, tokenizer, tmp_path)
    with pytest.warns(UserWarning, match="tag: absent, so not scored: de=nowhere.conllu$"):
        results = run(tagging, dict(sets=[f"en={path}", "de=nowhere.conllu"]), setting, params)
    assert {r.lang for r in results} == {"en", "avg"}
    assert not (tmp_path / "predictions").exists()
    with pytest.raises(ValueError, match="sets: no such files: de=nowhere, fr=there"):
        run(tagging, dict(sets=["de=nowhere", "fr=there"]), setting, params)
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(BadData, match="empty: no example"):
        run(tagging, dict(sets=[f"en={path}", f"fr={empty}"]), setting, params)


def test_gold_tags_that_are_no_label_count_as_errors_and_are_said(tokenizer, models, tmp_path):
    path = tmp_path / "en"
    write_tree(path, 1, ["UNHEARD"], num=3)
    setting, params = make_setting(models, "tag", TaskData("conllu", (), UPOS), tokenizer, tmp_path)
    with pytest.warns(UserWarning, match=f"tag: en={path}: .*tag UNHEARD that is no label: "):
        scores = scores_of(run(tagging, dict(sets=[f"en={path}"]), setting, params))
    assert scores["en", "accuracy"] == scores["en", "f1"] == 0.0


def test_a_set_of_another_format_gives_the_same_scores(tokenizer, models, tmp_path):
    tree, columns = write_tree(tmp_path / "tree", 1, UPOS, num=5), tmp_path / "columns"
    rows = ["\t".join(pair) for s in conllu.read(tree) for pair in [*zip(*s, strict=True), ("",)]]
    columns.write_text("\n".join(rows) + "\n")
    task = TaskData("conllu", (), UPOS, options={"column": "upos"})
    setting, params = make_setting(models, "tag", task, tokenizer, tmp_path)
    found = []
    for entries in ({"sets": [f"en={tree}"]}, {"sets": [f"en={columns}"], "format": "ner"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(run(tagging, entries, setting, params))
    assert found[0] == found[1] and found[0][1].value > 0  # accuracy
    with pytest.raises(ValueError, match="format='nli' is for classify, and this evaluates tag"):
        run(tagging, {"sets": [f"en={tree}"], "format": "nli"}, setting, params)


def test_pairs_without_labels_are_predicted_and_not_scored(tokenizer, models, tmp_path):
    plain, some = tmp_path / "plain", tmp_path / "some"
    plain.write_text("sentence1\tsentence2\nder Hund\tthe house\nla maison\tthe cat\n")
    lines = [{"premise": "der Hund", "hypothesis": "the cat", "label": x} for x in ("odd", "", "")]
    some.write_text("\n".join(map(json.dumps, lines)))
    task = TaskData("nli", (), NLI)
    setting, params = make_setting(models, "classify", task, tokenizer, tmp_path)
    entries = dict(sets=[f"de={plain}", f"en={some}"], predictions="out", name="xnli")
    with pytest.warns(UserWarning, match="xnli: de has no labels: not scored"):
        results = run(classification, entries, setting, params)
    assert [(r.lang, r.n) for r in results] == [("en", 1), ("avg", 1)]
    for lang, num in (("de", 2), ("en", 3)):
        text = (tmp_path / f"out/xnli/test-{lang}.tsv").read_text()
        assert len(text.splitlines()) == num and set(text.split()) <= set(NLI)


@pytest.mark.parametrize(
    ("module", "entries", "said"),
    [
        (tagging, {}, "sets is empty"),
        (tagging, {"sets": ["a.conllu"]}, "'a.conllu': need LANG=PATH"),
        (tagging, {"sets": ["en=a", "en=b"]}, "two for en; .* as en-ewt and en-pud"),
        (tagging, {"sets": ["avg=a"]}, "'avg' is the name of the mean"),
        (tagging, {"sets": ["en=a"], "rows": 0}, "rows=0"),
        (
            tagging,
            {"sets": ["en=a"], "objective": "pos"},
            "'pos': .* 'tag' here are: tag",
        ),
        (classification, {"sets": ["en=a"]}, "kind 'classify' here are: none"),
        (qa_eval, {"sets": ["en=a"], "normalize": "xquad"}, "normalize='xquad'.* squad, mlqa"),
        (qa_eval, {"sets": ["en=a"], "normalise": "mlqa"}, "Did you mean 'normalize'"),
    ],
)
def test_wrong_entries_are_refused(tokenizer, models, tmp_path, module, entries, said):
    task = TaskData("conllu", (), UPOS)
    setting, params = make_setting(models, "tag", task, tokenizer, tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        run(module, entries, setting, params)
    assert isinstance(caught.value, ConfigError) or "objective" in str(caught.value)


def test_predictions_need_a_place(tokenizer, models, tmp_path):
    path = write_pairs(tmp_path / "en", 5, NLI, num=2)
    setting, params = make_setting(
        models, "classify", TaskData("nli", (), NLI), tokenizer, tmp_path
    )
    setting = setting._replace(workdir=None)
    with pytest.raises(ValueError, match="predictions='out': no workdir here"):
        run(classification, dict(sets=[f"en={path}"], predictions="out"), setting, params)
    entries = dict(sets=[f"en={path}"], predictions=str(tmp_path / "out"))
    run(classification, entries, setting, params)
    assert (tmp_path / "out/classify/test-en.tsv").is_file()
