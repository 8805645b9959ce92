"""Small random PyTorch models with tokenizers, saved as Hugging Face folders: real files of every
family.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from jalign.data.tokenizer import train_tokenizer
from jalign.hf.compare import SENTENCES

SHAPES = (
    dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40),
    dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64),
    dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24),
)
MODEL_TYPES = ("xlm-roberta", "roberta", "bert", "modernbert")
POSITIONS = 130


def train_unigram(folder: Path) -> None:
    """XLM-R's layout: SentencePiece, <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last."""
    train_tokenizer(list(SENTENCES) * 20, folder, 285)


def train_wordpiece(folder: Path) -> None:
    """BERT's: WordPiece, [PAD] 0, then the other special tokens."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    vocab = tokenizer.get_vocab()
    hf = transformers.BertTokenizer(vocab=vocab, do_lower_case=False)
    hf.save_pretrained(str(folder))


def train_byte_level(folder: Path) -> None:
    """RoBERTa's and ModernBERT's: byte-level BPE, so that nothing is unknown."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("bos", "pad", "eos", "unk", "mask"), specials, strict=True))
    names |= {"cls": "<s>", "sep": "</s>"}
    hf = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{n}_token": t for n, t in names.items()}
    )
    hf.save_pretrained(str(folder))


TRAINERS = {
    "xlm-roberta": train_unigram,
    "roberta": train_byte_level,
    "bert": train_wordpiece,
    "modernbert": train_byte_level,
}
CLASSES = {
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", "XLMRobertaModel"),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", "RobertaModel"),
    "bert": ("BertConfig", "BertForMaskedLM", "BertModel"),
    "modernbert": ("ModernBertConfig", "ModernBertForMaskedLM", "ModernBertModel"),
}


def make_folder(
    folder: Path, model_type: str, shape: int = 0, *, head: bool = True, **changes
) -> torch.nn.Module:
    """Save a random model with its tokenizer, and return it."""
    TRAINERS[model_type](folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    config_class, with_head, bare = (getattr(transformers, n) for n in CLASSES[model_type])
    entries = dict(
        SHAPES[shape],
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id or tokenizer.cls_token_id,
        eos_token_id=tokenizer.eos_token_id or tokenizer.sep_token_id,
        initializer_range=0.3,
        layer_norm_eps=1e-5,
    )
    if model_type == "modernbert":
        entries |= dict(
            cls_token_id=entries["bos_token_id"],
            sep_token_id=entries["eos_token_id"],
            norm_eps=entries.pop("layer_norm_eps"),
            local_attention=16,
        )
    elif model_type != "bert":
        entries["type_vocab_size"] = 1
    config = config_class(**{**entries, **changes})
    torch.manual_seed(shape)
    model = (with_head if head else bare)._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms too
    model.save_pretrained(str(folder))
    return model
