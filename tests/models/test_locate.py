"""From what a user names to the directory of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from cofi.errors import UserError
from cofi.models import locate


def test_a_run_stands_for_its_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    assert locate.locate(tmp_path) == tmp_path / "model" == locate.locate(tmp_path / "model")


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl"])
def test_a_run_without_a_model(tmp_path: Path, file: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(UserError, match="has no model yet"):
        locate.locate(tmp_path)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model: neither config.json nor model/config.json"):
        locate.locate(tmp_path)
    with pytest.raises(UserError, match="gone does not exist"):
        locate.locate(tmp_path / "gone")
    with pytest.raises(UserError, match="got nothing"):
        locate.locate("")


def test_an_installed_package_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(locate, "PACKAGED", {"owner/name": ("a_package_of_weights", "folder")})
    asked: list[str] = []
    monkeypatch.setattr(locate, "local_directory", lambda name: asked.append(name))
    locate.locate("owner/name")
    (tmp_path / "a_package_of_weights" / "folder").mkdir(parents=True)
    (tmp_path / "a_package_of_weights" / "__init__.py").write_text("raise RuntimeError('must not be run')")
    (tmp_path / "a_package_of_weights" / "folder" / "config.json").touch()
    locate.locate("owner/name")
    assert asked == ["owner/name", str(tmp_path / "a_package_of_weights" / "folder")]
