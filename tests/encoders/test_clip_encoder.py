"""CLIP-like encoders from every source: parity with their libraries, tokens, freezing, wrong names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from counterpoint.encoders import assets, hub
from counterpoint.encoders.clip import ClipEncoder

TEXTS = ["a cat", "the dog on the mat, beside a red door", "", "rain", "two birds", "b", "one more"]
VISION: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
PAIR = "dual:test_resnet+bert:2x16x2?dim=8&size=64"


@pytest.fixture(scope="module")
def open_clip_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny fresh models of open_clip, saved in its format."""
    folders = {}
    for name, vision in VISION.items():
        torch.manual_seed(2)
        config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": name == "vit"}
        model = open_clip.CLIP(**config)  # type: ignore[arg-type]
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3 / parameter[0].numel() ** 0.25) if parameter.dim() > 1 else None
        folders[name] = tmp_path_factory.mktemp(name)
        preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        (folders[name] / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
        )
        save_file(model.state_dict(), folders[name] / "open_clip_model.safetensors")
    return folders


@pytest.fixture(scope="module")
def transformers_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny fresh CLIP and SigLIP of transformers, with a byte-pair tokenizer made on the spot."""
    words = {word: index for index, word in enumerate(["<pad>", "<unk>", "a", "cat", "dog", "the", "<s>", "</s>"])}
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 6), ("</s>", 7)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=12,
    )
    text = {
        "vocab_size": 8,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text |= {"max_position_embeddings": 12, "pad_token_id": 0, "bos_token_id": 6, "eos_token_id": 7}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    siglip = transformers.SiglipModel(
        transformers.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision)
    )
    folders = {}
    for name, model in (("clip", clip), ("siglip", siglip)):
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name], safe_serialization=True)
        tokenizer.save_pretrained(folders[name])
        (folders[name] / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "CLIPImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.3] * 3})
        )
    return folders


def pictures(encoder: ClipEncoder, count: int = 3) -> Tensor:
    return torch.randn(count, 3, encoder.size, encoder.size)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_open_clip_folders_give_open_clips_vectors(open_clip_folders: dict[str, Path], name: str) -> None:
    folder = open_clip_folders[name]
    encoder = ClipEncoder(str(folder)).eval()
    reference = open_clip.create_model(f"local-dir:{folder}").eval()
    images, tokens = pictures(encoder), encoder.tokenize(TEXTS)
    with torch.inference_mode():
        ours, theirs = encoder.encode_image(images), reference.encode_image(images)
        # As unit vectors: ours runs convolutions with channels last, which rounds differently.
        ours, theirs = nn.functional.normalize(ours, dim=1), nn.functional.normalize(theirs, dim=1)
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
        torch.testing.assert_close(
            encoder.encode_text(tokens),
            reference.encode_text(SimpleTokenizer(context_length=16)(TEXTS)),
            atol=1e-5,
            rtol=1e-5,
        )
    assert encoder.mean == (0.5, 0.5, 0.5)
    assert encoder.dim == 12
    assert encoder.logit_scale is encoder.towers.model.logit_scale
    assert encoder.logit_bias is None


def test_open_clip_tokens_lead_to_the_pooled_vectors(open_clip_folders: dict[str, Path]) -> None:
    encoder = ClipEncoder(str(open_clip_folders["vit"])).eval()
    tokens = encoder.tokenize(TEXTS)
    vectors, mask = encoder.text_tokens(tokens)
    assert vectors.shape == (7, 16, 12)
    assert mask.dtype == torch.bool
    last = mask.sum(dim=1) - 1  # the end-of-text token
    torch.testing.assert_close(vectors[torch.arange(7), last], encoder.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert mask.sum(dim=1).tolist()[2] == 2  # the empty text is start and end
    assert encoder.image_tokens(pictures(encoder)).shape == (3, 16, 12)


def test_places_of_an_attention_pool(open_clip_folders: dict[str, Path]) -> None:
    """Every place queries like the mean does: checked by putting each place where the mean stands."""
    encoder = ClipEncoder(str(open_clip_folders["resnet"])).eval()
    images, visual = pictures(encoder, 2), encoder.towers.model.visual
    with torch.inference_mode():
        places = encoder.image_tokens(images)
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
        assert places.shape == (2, maps.shape[2] * maps.shape[3], 12)
        pool = visual.attnpool
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + pool.positional_embedding
        for place in range(places.shape[1]):
            query = pool.q_proj(tokens[:, place + 1]).unflatten(1, (pool.num_heads, -1))  # (B, heads, d)
            key, value = (part(tokens).unflatten(2, (pool.num_heads, -1)) for part in (pool.k_proj, pool.v_proj))
            weights = (torch.einsum("bhd,bnhd->bhn", query, key) / query.shape[-1] ** 0.5).softmax(dim=-1)
            expected = pool.c_proj(torch.einsum("bhn,bnhd->bhd", weights, value).flatten(1))
            torch.testing.assert_close(places[:, place], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_transformers_folders_give_transformers_vectors(transformers_folders: dict[str, Path], name: str) -> None:
    folder = transformers_folders[name]
    encoder = ClipEncoder(str(folder)).eval()
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    images, tokens = pictures(encoder), encoder.tokenize(["a cat", "the dog"])
    with torch.inference_mode():
        torch.testing.assert_close(
            encoder.encode_image(images), reference.get_image_features(pixel_values=images).pooler_output
        )
        mask = {} if name == "siglip" else {"attention_mask": tokens["attention_mask"]}
        torch.testing.assert_close(
            encoder.encode_text(tokens), reference.get_text_features(tokens["input_ids"], **mask).pooler_output
        )
    assert encoder.dim == encoder.encode_image(images).shape[1]
    assert (encoder.mean, encoder.std) == ((0.4,) * 3, (0.3,) * 3)
    assert (encoder.logit_bias is None) == (name == "clip")


def test_transformers_tokens(transformers_folders: dict[str, Path]) -> None:
    encoder = ClipEncoder(str(transformers_folders["clip"])).eval()
    tokens = encoder.tokenize(["a cat", "the dog a cat"])
    vectors, mask = encoder.text_tokens(tokens)
    torch.testing.assert_close(vectors[torch.arange(2), mask.sum(dim=1) - 1], encoder.encode_text(tokens))
    assert encoder.image_tokens(pictures(encoder)).shape == (3, 16, 12)
    with pytest.raises(ValueError, match="no joint vectors per place"):
        ClipEncoder(str(transformers_folders["siglip"])).image_tokens(pictures(encoder))


@pytest.mark.parametrize("source", ["vit", "resnet", "clip", "siglip", "dual"])
def test_a_row_has_the_same_vector_in_any_batch(
    open_clip_folders: dict[str, Path], transformers_folders: dict[str, Path], source: str
) -> None:
    name = PAIR if source == "dual" else str({**open_clip_folders, **transformers_folders}[source])
    encoder = ClipEncoder(name).eval()
    images = pictures(encoder, 7)

    def unit(vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=1)

    with torch.inference_mode():
        image, text = unit(encoder.encode_image(images)), unit(encoder.encode_text(encoder.tokenize(TEXTS)))
        for size in (1, 2):
            parts = [unit(encoder.encode_image(part)) for part in images.split(size)]
            assert (torch.cat(parts) - image).abs().max() <= 1e-6
            parts = [unit(encoder.encode_text(encoder.tokenize(TEXTS[i : i + size]))) for i in range(0, 7, size)]
            assert (torch.cat(parts) - text).abs().max() <= 1e-6


def test_a_pair_of_encoders() -> None:
    encoder = ClipEncoder(PAIR)
    tokens = encoder.tokenize(TEXTS)
    assert encoder.encode_image(pictures(encoder)).shape == (3, 8)
    assert encoder.encode_text(tokens).shape == (7, 8)
    assert encoder.image_tokens(pictures(encoder)).shape == (3, 4, 8)
    assert encoder.text_tokens(tokens)[0].shape == (*tokens["input_ids"].shape, 8)
    assert encoder.towers.image_projection.bias is None
    assert encoder.towers.text_projection.bias is not None
    assert encoder.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
    assert all(parameter.requires_grad for parameter in encoder.parameters())  # both start fresh


def test_dropout_of_the_picture_is_for_training_only() -> None:
    torch.manual_seed(0)
    encoder = ClipEncoder(PAIR + "&dropout=0.5").train()
    images = pictures(encoder)
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.eval()
    assert norms and not torch.equal(encoder.encode_image(images), encoder.encode_image(images))
    encoder.eval()
    assert torch.equal(encoder.encode_image(images), encoder.encode_image(images))
    with pytest.raises(ValueError, match=r"option dropout must be a number in \[0, 1\), got '1'"):
        ClipEncoder(PAIR + "&dropout=1")


def test_parameters_of_the_text_tower(
    open_clip_folders: dict[str, Path], transformers_folders: dict[str, Path]
) -> None:
    """Exactly those that get a gradient from a text, whatever the source."""
    for name in (PAIR, *map(str, [*open_clip_folders.values(), *transformers_folders.values()])):
        encoder = ClipEncoder(name)
        encoder.encode_text(encoder.tokenize(TEXTS[:3])).square().sum().backward()
        moved = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
        wanted = set(encoder.text_parameters())
        assert moved <= wanted
        assert all("image" not in name and "vis" not in name and "logit" not in name for name in wanted)


def trained(encoder: ClipEncoder) -> set[str]:
    names = (name.removeprefix("towers.") for name, parameter in encoder.named_parameters() if parameter.requires_grad)
    return {name.split(".")[0] for name in names}


HEAD = {"image_projection", "text_projection", "logit_scale"}


@pytest.mark.parametrize(
    ("options", "trainable", "expected"),
    [
        ("", "all", {"image", *HEAD}),
        ("&text=all", "all", {"image", "text", *HEAD}),
        ("&image=none", "all", HEAD),
        ("", "none", set()),
        ("", "head", HEAD),
        ("", "last:1", {"image", "text", *HEAD}),
        ("", ["towers.text_projection"], {"text_projection"}),
    ],
)
def test_what_of_a_pair_is_trained(options: str, trainable: Any, expected: set[str]) -> None:
    encoder = ClipEncoder(f"dual:test_resnet+minilm?dim=8&size=64{options}", trainable=trainable).train()
    assert trained(encoder) == expected
    assert encoder.towers.text.training == ("text" in expected)


def test_frozen_texts_are_remembered_while_training_only() -> None:
    encoder = ClipEncoder("dual:test_resnet+minilm?dim=8&size=64")
    tokens = encoder.tokenize(TEXTS)
    expected = encoder.eval().encode_text(tokens)
    assert len(encoder.towers.remembered) == 0
    vectors = encoder.train().encode_text(tokens)
    assert len(encoder.towers.remembered) == len(TEXTS)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
    vectors.sum().backward()
    assert encoder.towers.text_projection.weight.grad is not None
    unfrozen = ClipEncoder("dual:test_resnet+minilm?dim=8&size=64", trainable="last:1").train()
    unfrozen.encode_text(tokens).sum().backward()
    assert len(unfrozen.towers.remembered) == 0
    assert unfrozen.towers.text.model.encoder.layer[5].output.dense.weight.grad is not None
    assert ClipEncoder("dual:test_resnet+minilm?size=64&cache=no").towers.remembered is None


@pytest.mark.parametrize(("trainable", "part"), [("head", "proj"), ("last:1", "resblocks.1.")])
def test_partly_frozen_open_clip(open_clip_folders: dict[str, Path], trainable: str, part: str) -> None:
    encoder = ClipEncoder(str(open_clip_folders["vit"]), trainable=trainable).train()
    names = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert any(part in name for name in names)
    assert "towers.model.logit_scale" in names
    assert not any("conv1" in name or "resblocks.0." in name or "embedding" in name for name in names)


def test_blocks_of_every_source(open_clip_folders: dict[str, Path], transformers_folders: dict[str, Path]) -> None:
    for folder in (*open_clip_folders.values(), *transformers_folders.values()):
        encoder = ClipEncoder(str(folder), trainable="last:2")
        count = sum(parameter.requires_grad for parameter in encoder.parameters())
        assert 0 < count < len(list(encoder.parameters()))


@pytest.mark.parametrize("source", ["vit", "clip", "siglip", "dual"])
def test_stored_and_built_again(
    open_clip_folders: dict[str, Path], transformers_folders: dict[str, Path], source: str, tmp_path: Path
) -> None:
    name = PAIR if source == "dual" else str({**open_clip_folders, **transformers_folders}[source])
    encoder = ClipEncoder(name).eval()
    assets.save(encoder, tmp_path)
    with assets.loading(tmp_path):
        again = ClipEncoder(name).eval()
    again.load_state_dict(encoder.state_dict())
    images = pictures(encoder)
    torch.testing.assert_close(again.encode_image(images), encoder.encode_image(images))
    torch.testing.assert_close(again.encode_text(again.tokenize(TEXTS)), encoder.encode_text(encoder.tokenize(TEXTS)))
    assert (again.dim, again.size, again.mean, again.std) == (encoder.dim, encoder.size, encoder.mean, encoder.std)


def test_a_pretrained_tag_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real path of `open_clip:ARCH/TAG`, with a small architecture and weights in the place of the download."""
    (tmp_path / "tiny-clip.json").write_text(
        json.dumps({"embed_dim": 12, "vision_cfg": VISION["vit"], "text_cfg": TEXT})
    )
    open_clip.add_model_config(tmp_path)
    preset = {"tiny-clip": {"some_data": {"hf_hub": "someone/tiny-clip/", "mean": (0.1,) * 3, "std": (0.2,) * 3}}}
    monkeypatch.setattr("open_clip.pretrained._PRETRAINED", {**open_clip.pretrained._PRETRAINED, **preset})
    model = open_clip.create_model("tiny-clip")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    asked: list[str] = []

    def fetch(repository: str, file: str) -> str:
        asked.append(f"{repository}/{file}")
        return str(tmp_path / "weights.safetensors")

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    encoder = ClipEncoder("open_clip:tiny-clip/some_data").eval()
    assert asked == ["someone/tiny-clip/open_clip_model.safetensors"]
    images = pictures(encoder)
    torch.testing.assert_close(encoder.encode_image(images), model.eval().encode_image(images))
    assert encoder.mean == (0.1,) * 3
    fresh = ClipEncoder("open_clip:tiny-clip")
    assert not torch.equal(fresh.towers.model.visual.proj, encoder.towers.model.visual.proj)


def test_weights_that_are_not_to_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match="open_clip:RN50/yfcc15m: weights are neither in the hub's cache nor reachable"
    ):
        ClipEncoder("open_clip:RN50/yfcc15m")
    with pytest.raises(ValueError, match="nobody/nothing: cannot be loaded as a CLIP-like model"):
        ClipEncoder("hf:nobody/nothing")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("open_clip:ViT-B-33", "nearest: ViT-B-32"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79", "nearest: laion2b_s34b_b79k"),
        ("open_clip:coca_base", "CoCa"),
        ("fixture:vitt", "nearest: vit"),
        ("dual:resnet18", "write dual:IMAGE"),
        ("dual:resnet18+minilm?dim=x", "positive whole number"),
        ("dual:resnet81+minilm", "nearest: resnet18"),
        ("ViT-B-32", "needs a prefix, such as open_clip:ViT-B-32"),
        ("openclip:ViT-B-32", "did you mean open_clip"),
    ],
)
def test_models_that_do_not_exist(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClipEncoder(name)


def test_folders_that_hold_no_model(tmp_path: Path, open_clip_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="holds no CLIP-like model"):
        ClipEncoder(str(tmp_path))
    config = json.loads((open_clip_folders["vit"] / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="safetensors files only"):
        ClipEncoder(str(tmp_path))
    weights = (open_clip_folders["resnet"] / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="does not fit this architecture"):
        ClipEncoder(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        ClipEncoder(str(tmp_path))


def test_wrong_inputs_are_named() -> None:
    encoder = ClipEncoder(PAIR)
    with pytest.raises(ValueError, match="images must be"):
        encoder.encode_image(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="texts is empty"):
        encoder.tokenize([])
    with pytest.raises(TypeError, match="list of strings"):
        encoder.tokenize("a cat")
