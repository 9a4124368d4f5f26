"""A picture takes the place of an earlier one of the same galaxy, and of nothing else."""

import pytest
from matplotlib.figure import Figure

from kinmass.gen.look.save import save_picture
from kinmass.gen.options import OptionError


def test_pictures_of_another_store_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture, figure = tmp_path / "quiet.snap_000%3A0.view0.png", Figure(figsize=(1, 1))
    save_picture(figure, picture, tmp_path / "ä" / "maps.zarr", dpi=20)
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    figure.text(0.5, 0.5, "other")
    with pytest.raises(OptionError, match=r"ä/maps\.zarr; give another --out"):
        save_picture(figure, picture, tmp_path / "other" / "maps.zarr", dpi=20)
    assert picture.read_bytes() == first
    save_picture(figure, picture, (tmp_path / "ä" / ".." / "ä" / "maps.zarr").relative_to(tmp_path), dpi=20)
    assert picture.read_bytes() != first
    for content in (b"", b"\x89PNG", first.replace(b"Source", b"Sauces")):
        picture.write_bytes(content)
        with pytest.raises(OptionError, match="no picture of this version"):
            save_picture(figure, picture, tmp_path / "ä" / "maps.zarr", dpi=20)
        assert picture.read_bytes() == content
