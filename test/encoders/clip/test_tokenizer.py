"""The hub's tokenizers are read without transformers, and cut and pad as open_clip's wrapper of them does."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from clip_models import open_clip_or_skip, put_in_hub, register_small  # noqa: E402

open_clip = open_clip_or_skip()

from ovs_ros.encoders.clip.open_clip_models import build_clip, load_open_clip  # noqa: E402
from ovs_ros.encoders.clip.tokenizer import HubTokenizer  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402

WORDS = {"<pad>": 0, "</s>": 1, "a": 2, "photo": 3, "of": 4, "dog": 5, "<unk>": 6}
CANONICAL: dict[str, Any] = {
    "hf_tokenizer_name": "owner/small",
    "tokenizer_kwargs": {"clean": "canonicalize"},
}


def write(folder: Path, padding: object = "<pad>") -> Path:
    """A tokenizer as SigLIP 2's: words, an end token, and what to pad with in tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": padding}))
    return folder


@pytest.mark.parametrize("padding", ["<pad>", {"content": "<pad>", "lstrip": False}])
def test_texts_are_cleaned_cut_and_padded(tmp_path: Path, padding: object) -> None:
    tokenizer = HubTokenizer(write(tmp_path, padding), {"context_length": 5, **CANONICAL})
    found = tokenizer(["A photo,  of a DOG!", "dog", "a_dog."])
    assert found.dtype == torch.int64
    assert found.tolist() == [[2, 3, 4, 2, 1], [5, 1, 0, 0, 0], [2, 5, 1, 0, 0]]


def test_padding_is_what_the_configuration_says(tmp_path: Path) -> None:
    tokenizer = HubTokenizer(write(tmp_path, "</s>"), {"context_length": 4, **CANONICAL})  # as SigLIP's
    assert tokenizer(["dog"]).tolist() == [[5, 1, 1, 1]]


def test_berts_separator_is_left_out_for_clipa(tmp_path: Path) -> None:
    words = {"[PAD]": 0, "a": 2, "dog": 5, "[CLS]": 101, "[SEP]": 102, "[UNK]": 100}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 101), ("[SEP]", 102)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    text = {"context_length": 4, "hf_tokenizer_name": "bert-base-uncased"}
    clipa = HubTokenizer(tmp_path, {**text, "tokenizer_kwargs": {"strip_sep_token": True}})
    assert clipa(["a dog", "a", "a a a a"]).tolist() == [[101, 2, 5, 0], [101, 2, 0, 0], [101, 2, 2, 0]]


def test_what_is_missing_or_foreign_is_named(tmp_path: Path) -> None:
    text = {"context_length": 4, **CANONICAL}
    with pytest.raises(ValueError, match="padding token in .*got None"):
        HubTokenizer(write(tmp_path / "a", None), text)
    with pytest.raises(ValueError, match=r"got owner/small with \{'language': 'en'\}"):
        HubTokenizer(tmp_path, {**text, "tokenizer_kwargs": {"language": "en"}})
    with pytest.raises(ValueError, match="got owner/small with clips"):
        HubTokenizer(tmp_path, {**text, "tokenizer_mode": "clips"})
    (write(tmp_path / "b") / "tokenizer_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer_config.json.*owner/small"):
        HubTokenizer(tmp_path / "b", text)


def test_a_siglip_is_loaded_with_the_tokenizer_beside_it_or_in_the_cache(tmp_path: Path) -> None:
    name = register_small(tmp_path, "siglip", **CANONICAL)
    write(put_in_hub(tmp_path / "cache", "owner/small"))
    clip = build_clip(name)
    torch.save(clip.state_dict(), tmp_path / "weights.pt")
    file = ModelFile(model=name, weights=str(tmp_path / "weights.pt"))
    with pytest.raises(FileNotFoundError, match="hf download owner/small tokenizer.json"):
        load_open_clip(file)
    by_cache = load_open_clip(ModelFile(model=name, weights=file.weights, cache=str(tmp_path / "cache")))
    write(tmp_path)
    beside = load_open_clip(file)
    with torch.inference_mode():
        want = clip.encode_text(torch.tensor([[2, 5, 1] + [0] * 13]), normalize=True)
        for model in (by_cache, beside):
            torch.testing.assert_close(model.embed_texts(["A dog!"]), want, atol=1e-6, rtol=0)
