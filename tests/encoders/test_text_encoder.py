"""Text encoders over transformers: pooling, batch independence, weights from folders, freezing, wrong input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from counterpoint.encoders.text import POOLINGS, TextEncoder, pool

TEXTS = [
    "a cat",
    "the dog sleeps on the mat beside the red door",
    "",
    "rain",
    "two birds, one stone and a very long branch of an old tree",
    "Grüße",
    "tea or coffee?",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with MiniLM's tokenizer, saved as transformers saves it."""
    torch.manual_seed(1)
    encoder = TextEncoder("bert:3x16x2")
    target = tmp_path_factory.mktemp("bert")
    encoder.model.save_pretrained(target, safe_serialization=True)
    encoder.tokenizer.save_pretrained(target)
    return target


def states() -> tuple[list[Tensor], Tensor]:
    hidden = [torch.randn(3, 4, 5, dtype=torch.float64) for _ in range(3)]
    return hidden, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])  # full, right padding, left padding


@pytest.mark.parametrize("how", POOLINGS)
def test_poolings_against_loops(how: str) -> None:
    hidden, mask = states()
    for row in range(3):
        places = [place for place in range(4) if mask[row, place]]
        source = {
            "avg_top2": (hidden[-1] + hidden[-2]) / 2,
            "avg_first_last": (hidden[-1] + hidden[0]) / 2,
        }.get(how, hidden[-1])[row]
        if how.startswith("cls"):
            expected = source[places[0]]
        elif how == "last":
            expected = source[places[-1]]
        else:
            expected = sum(source[place] for place in places) / len(places)  # type: ignore[assignment]
        torch.testing.assert_close(pool(hidden, mask, how)[row], expected)


@pytest.mark.parametrize("how", POOLINGS)
def test_padding_never_leaks(how: str) -> None:
    hidden, mask = states()
    spoilt = [state.masked_fill(mask.unsqueeze(-1) == 0, float("nan")) for state in hidden]
    torch.testing.assert_close(pool(spoilt, mask, how), pool(hidden, mask, how))
    empty = pool(hidden, torch.zeros(3, 4), how)
    assert torch.equal(empty, torch.zeros_like(empty))


def test_wrong_pooling_and_shapes() -> None:
    hidden, mask = states()
    with pytest.raises(ValueError, match="pooling must be one of mean, .*got 'max'"):
        pool(hidden, mask, "max")
    with pytest.raises(ValueError, match="attention_mask is"):
        pool(hidden, mask[:, :3], "mean")
    with pytest.raises(ValueError, match="at least two layers"):
        pool(hidden[:1], mask, "avg_top2")


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "avg_first_last"])
def test_a_text_has_the_same_vector_in_any_batch(pooling: str) -> None:
    """As unit vectors: the entries of the raw ones reach 3, where float32 itself rounds by 2e-7."""
    encoder = TextEncoder("minilm", pooling=pooling, layers=3).eval()

    def embed(texts: list[str]) -> Tensor:
        with torch.inference_mode():
            return torch.nn.functional.normalize(encoder(encoder.tokenize(texts)), dim=1)

    whole = embed(TEXTS)
    assert whole.shape == (7, 384)
    for size in (1, 2):
        parts = torch.cat([embed(TEXTS[first : first + size]) for first in range(0, len(TEXTS), size)])
        assert (parts - whole).abs().max() <= 1e-6


def test_minilm_knows_what_is_alike() -> None:
    encoder = TextEncoder("minilm", trainable="none").eval()
    vectors = torch.nn.functional.normalize(
        encoder(encoder.tokenize(["a cat on a mat", "a kitten on a rug", "quarterly tax report"])), dim=1
    )
    assert vectors[0] @ vectors[1] > 0.5 > 0.25 > vectors[0] @ vectors[2]


def test_minilm_equals_sentence_transformers() -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from counterpoint.encoders import text

    reference = sentence_transformers.SentenceTransformer(str(text._minilm_folder()), device="cpu")
    expected = torch.from_numpy(reference.encode(TEXTS[:3]))
    encoder = TextEncoder("minilm").eval()
    ours = torch.nn.functional.normalize(encoder(encoder.tokenize(TEXTS[:3])), dim=1)
    torch.testing.assert_close(ours.detach(), expected, atol=1e-5, rtol=0)


def test_weights_from_a_folder(folder: Path) -> None:
    encoder = TextEncoder(str(folder)).eval()
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = encoder.tokenize(TEXTS)
    torch.testing.assert_close(
        encoder.hidden_states(tokens)[-1], reference(**tokens).last_hidden_state, atol=1e-6, rtol=1e-5
    )


def test_fewer_layers_are_the_first_ones(folder: Path) -> None:
    whole, short = TextEncoder(str(folder)).eval(), TextEncoder(str(folder), layers=2).eval()
    tokens = whole.tokenize(TEXTS)
    assert len(short.hidden_states(tokens)) == 3
    torch.testing.assert_close(short.hidden_states(tokens)[-1], whole.hidden_states(tokens)[2])
    assert len(short.blocks()) == 2
    with pytest.raises(ValueError, match="layers must be between 1 and 3"):
        TextEncoder(str(folder), layers=4)


def test_only_safetensors_are_read(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix == ".json" or file.suffix == ".txt":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match="cannot be loaded as a text encoder"):
        TextEncoder(str(tmp_path))


def test_foreign_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    import json

    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the model was run')")
    with pytest.raises(ValueError, match="cannot be loaded as a text encoder"):
        TextEncoder(str(tmp_path))


def test_hub_models_need_the_hub_or_its_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="hf:nobody/nothing: cannot be loaded"):
        TextEncoder("hf:nobody/nothing")


def test_hub_models_from_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's own cache layout, made by hand: blobs are not needed when the snapshot holds plain files."""
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "0123456789012345678901234567890123456789"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--someone--tiny" / "refs").mkdir()
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text(snapshot.name)
    for file in folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)
    for place in ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(place, str(tmp_path))
    encoder = TextEncoder("hf:someone/tiny").eval()
    tokens = encoder.tokenize(["a cat"])
    torch.testing.assert_close(encoder(tokens), TextEncoder(str(folder)).eval()(tokens))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minlim", "nearest: minilm"),
        ("bert:4x256", "write bert:LAYERSxWIDTHxHEADS"),
        ("bert:2x10x4", "multiple of the number of heads"),
        ("bert:0x16x2", "multiple of the number of heads"),
    ],
)
def test_models_that_do_not_exist(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TextEncoder(name)


def test_wrong_settings_and_texts() -> None:
    with pytest.raises(ValueError, match="pooling must be one of"):
        TextEncoder("bert:1x8x2", pooling="median")
    with pytest.raises(ValueError, match="max_length"):
        TextEncoder("bert:1x8x2", max_length=1)
    encoder = TextEncoder("bert:1x8x2", max_length=5)
    assert encoder.tokenize(["one two three four five six seven"])["input_ids"].shape == (1, 5)
    with pytest.raises(ValueError, match="texts is empty"):
        encoder.tokenize([])
    for wrong in ("one text", ["a", None]):
        with pytest.raises(TypeError, match="list of strings"):
            encoder.tokenize(wrong)  # type: ignore[arg-type]


def test_a_frozen_encoder_has_no_dropout() -> None:
    frozen = TextEncoder("minilm", layers=1, trainable="none").train()
    tokens = frozen.tokenize(TEXTS)
    assert torch.equal(frozen(tokens), frozen(tokens))
    trained = TextEncoder("minilm", layers=1).train()
    assert not torch.equal(trained(tokens), trained(tokens))


def test_the_last_layer_alone() -> None:
    encoder = TextEncoder("bert:3x16x2", trainable="last:1").train()
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("model.encoder.layer.2.") for name in trained)
    assert not encoder.model.embeddings.training
    assert encoder.model.encoder.layer[2].training
