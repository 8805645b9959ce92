"""Random models of PyTorch in Hugging Face folders, opened here; real sentences of many scripts."""

from __future__ import annotations

import jax
import pytest

import jalign
from jalign.hf.compare import SENTENCES
from tests.tiny import sentences

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.hf.torch_models import make_folder  # noqa: E402

torch.set_num_threads(1)  # tiny matrices: threads only wait for each other

TEXTS = [*SENTENCES, "", "the house", *sentences(5, 9), SENTENCES[4] + " " + SENTENCES[7]]


class Both:
    """One model twice: ours on one device, in small batches, and PyTorch's."""

    def __init__(self, folder, kind, shape, **changes):
        self.folder = folder
        self.torch = make_folder(folder, kind, shape, **changes)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        self.model = jalign.load(folder, devices=jax.devices()[:1], slots=128)

    def states(self, ids):
        """Every layer's states of one sequence of ids, from PyTorch: [1 + layers, L, D]."""
        with torch.no_grad():
            out = self.torch(torch.tensor([list(ids)]), output_hidden_states=True)
        return torch.cat(out.hidden_states).numpy()

    def ids(self, text):
        """What Hugging Face's tokenizer makes of a text."""
        return self.tokenizer(text, truncation=True, max_length=self.model.cfg.positions)[
            "input_ids"
        ]


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """Return a function that makes each kind of model once."""
    made = {}

    def get(kind, shape=0, **changes):
        key = (kind, shape, tuple(sorted(changes.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp("inference") / kind
            made[key] = Both(folder, kind, shape, **changes)
        return made[key]

    return get


@pytest.fixture(scope="session")
def xlmr(both):
    return both("xlm-roberta", 1)
