"""What is exported, other libraries load, and it computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import counterpoint
import workshop
from counterpoint.encoders.text import TextEncoder, pool
from counterpoint.export.export import export, list_formats
from counterpoint.export.formats import sentence_transformers as layout
from counterpoint.export.source import SENTENCES, open_source
from counterpoint.run import Run

FORMATS = {
    "swav": {"safetensors", "timm", "onnx"},
    "esimcse": {"safetensors", "transformers", "sentence-transformers", "onnx"},
    "clip": {"safetensors", "timm", "sentence-transformers", "onnx"},
    "classifier": {"safetensors", "open_clip", "onnx"},
    "hub": {"safetensors", "transformers", "onnx"},
}
"""What each kind of run can be written as: a timm network, a BERT, both, an open_clip and a transformers CLIP."""
TOWERS = {"swav": {"image"}, "esimcse": {"text"}, "clip": {"image", "text"}}
ONE_TOWER = {("clip", "timm"): {"image"}, ("clip", "sentence-transformers"): {"text"}}
CASES = [(run, format) for run, formats in FORMATS.items() for format in sorted(formats)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workshop.copy(workshop.made(), tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def make_hub_run() -> None:
    """A run whose encoder is a (tiny, fresh) CLIP in transformers' own format."""
    text = {"vocab_size": 30522, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 16, "eos_token_id": 102, "bos_token_id": 101}
    picture = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    picture |= {"image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=picture, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained("tiny-clip", safe_serialization=True)
    TextEncoder("bert:1x16x2").tokenizer.save_pretrained("tiny-clip")
    overrides = {"steps": 1, "batch": 8}
    counterpoint.train(
        "clip", "captions.csv", out="runs/hub", arguments={"encoder": "tiny-clip"}, overrides=overrides, quiet=True
    )


@pytest.mark.parametrize(("run", "format"), CASES, ids=lambda value: str(value))
def test_parity(run: str, format: str, folder: Path) -> None:
    """Measured by the library that will use it, on the run's own rows, to rounding; neighbours are the same."""
    if run == "hub":
        make_hub_run()
    result = export(f"runs/{run}", f"out/{run}", format=format, samples=12)
    assert set(result["parity"]) == ONE_TOWER.get((run, format), TOWERS.get(run, {"image", "text"}))
    for found in result["parity"].values():
        assert found["max_difference"] <= 1e-4
        assert found["top10_agreement"] == 1.0
        assert found["samples"] == 12
    stored = json.loads(Path(f"out/{run}/parity.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert set(result["files"]) < {path.relative_to(f"out/{run}").as_posix() for path in Path(f"out/{run}").rglob("*")}
    assert "built-in" not in result["compared_on"]


def test_every_format_is_tried() -> None:
    assert {format.replace("_", "-") for formats in FORMATS.values() for format in formats} == set(list_formats())


def test_weights_are_those_of_the_run_to_the_bit(folder: Path) -> None:
    """A plain state dict, loaded without us."""
    import timm
    from safetensors.torch import load_file

    export("runs/swav", "out/plain")
    model = timm.create_model("test_resnet", num_classes=0)
    model.load_state_dict(load_file("out/plain/image.safetensors"))
    own = counterpoint.load("runs/swav").encoder.model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def test_graphs_take_any_batch_and_any_length(folder: Path) -> None:
    import onnxruntime

    export("runs/clip", "out/graph", format="onnx")
    system = counterpoint.load("runs/clip")
    for count in (1, 3, 17):
        texts = list(SENTENCES[:count]) if count <= len(SENTENCES) else [*SENTENCES, "one more"]
        tokens = system.encoder.tokenize([text[: 10 * count] for text in texts])
        session = onnxruntime.InferenceSession("out/graph/text.onnx", providers=["CPUExecutionProvider"])
        found = session.run(["vectors"], {name: value.numpy() for name, value in tokens.items()})[0]
        with torch.no_grad():
            expected = system.encoder.encode_text(tokens).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_layout_of_sentence_transformers_is_read_the_documented_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where sentence-transformers is not installed, its files are read as its documentation says, and it is said so."""
    monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: None)
    result = export("runs/clip", "out/sentences", format="sentence-transformers", samples=8)
    assert "sentence-transformers is not installed" in result["checked_with"]
    modules = json.loads(Path("out/sentences/modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[-1] for module in modules] == ["Transformer", "Pooling", "Dense"]
    pooling = json.loads(Path("out/sentences/1_Pooling/config.json").read_text())
    assert [name for name, chosen in pooling.items() if chosen is True] == [
        "pooling_mode_mean_tokens",
        "include_prompt",
    ]


def test_a_wrong_export_is_refused_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooling that is written down wrongly changes vectors: it must be noticed."""
    monkeypatch.setitem(layout._POOLINGS, "cls", "mean_tokens")
    with pytest.raises(ValueError, match=r"the sentence-transformers export of the text tower differs from the run by"):
        export("runs/esimcse", "out/wrong", format="sentence-transformers")
    assert not Path("out/wrong").exists()
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize(
    ("run", "format", "message"),
    [
        ("swav", "transformers", "its encoder is no transformers model"),
        ("swav", "sentence-transformers", "its texts are not encoded by a transformers text encoder"),
        ("esimcse", "timm", "its pictures are not encoded by a timm network"),
        ("clip", "open_clip", "its encoder is no open_clip model"),
        ("swav", "tim", "no format is called 'tim'; nearest: timm"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(run: str, format: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(f"runs/{run}", "out", format=format)
    assert not Path("out").exists()


def test_a_place_that_is_taken_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="out=photos is taken"):
        export("runs/swav", "photos")
    with pytest.raises(ValueError, match="samples must be at least 2"):
        export("runs/swav", "out", samples=1)


def test_without_its_data_built_in_samples_are_compared(folder: Path) -> None:
    for name in ("photos", "labelled"):
        Path(name).rename(f"{name}-elsewhere")
    Path("captions.csv").unlink()
    result = export("runs/clip", "out/clip", format="timm")
    assert "built-in" in result["compared_on"]
    assert (
        export("runs/clip", "out/given", format="timm", data="photos-elsewhere/")["compared_on"] == "photos-elsewhere/"
    )


def test_a_system_that_computes_its_own_vectors_is_noted(folder: Path) -> None:
    """FILIP compares tokens: the pooled vector of its encoder is not what it was trained for."""
    counterpoint.train("filip", "captions.csv", out="runs/filip", recipe="tiny", quiet=True)
    notes = export("runs/filip", "out/filip", samples=4)["notes"]
    assert any("filip computes its own image embedding" in note for note in notes)
    assert export("runs/swav", "out/swav", samples=4)["notes"] == []


def test_pictures_are_prepared_as_the_system_prepares_them(folder: Path) -> None:
    """The small crops of a run decide the size, not the encoder's default."""
    source = open_source(Run("runs/swav"), None, 4)
    system = counterpoint.load("runs/swav")
    row = counterpoint.open_rows("photos/")[0]
    assert source.size == system.crops.sizes[0]
    torch.testing.assert_close(source.towers["image"].inputs["images"][0], system.preprocess()(row)["image"])


def test_pooling_of_the_export_is_the_run_s(folder: Path) -> None:
    """Independent of our exporter: transformers alone, and the pooling that the docs name."""
    export("runs/esimcse", "out/bert", format="transformers")
    model = transformers.AutoModel.from_pretrained("out/bert").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("out/bert")
    tokens = tokenizer(["a red door"], return_tensors="pt")
    with torch.no_grad():
        states = model(**{name: tokens[name] for name in ("input_ids", "attention_mask")}).last_hidden_state
    found = counterpoint.load("runs/esimcse").encoder
    with torch.no_grad():
        expected = found(found.tokenize(["a red door"]))
    torch.testing.assert_close(pool([states], tokens["attention_mask"], "cls"), expected)
    torch.testing.assert_close(states[:, 0], expected)
