"""Settings that are more than a number: lists in one variable, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pgmeaning.media import Policy
from pgmeaning.secret_values import secret
from pgmeaning.settings import Settings


def test_a_secret_is_in_its_variable_or_else_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert secret("PGMEANING_READER_DSN") == ""
    (file := tmp_path / "dsn").write_text("host=a\n")
    monkeypatch.setenv("PGMEANING_READER_DSN_FILE", str(file))
    assert secret("PGMEANING_READER_DSN") == "host=a"
    monkeypatch.setenv("PGMEANING_READER_DSN", "host=b")
    assert secret("PGMEANING_READER_DSN") == "host=b"


def test_by_default_no_file_and_no_url_may_be_read() -> None:
    assert Settings().media == Policy()


def test_lists_stand_in_one_variable_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMEANING_MEDIA_FOLDERS", "/srv/images:/srv/more")
    monkeypatch.setenv("PGMEANING_MEDIA_HOSTS", "images.example, *.cdn.example,")
    monkeypatch.setenv("PGMEANING_MEDIA_PRIVATE_HOSTS", "minio:9000")
    monkeypatch.setenv("PGMEANING_MEDIA_MAX_BYTES", "1000")
    policy = Settings().media
    assert policy.folders == (Path("/srv/images"), Path("/srv/more"))
    assert policy.hosts == ("images.example", "*.cdn.example")
    assert policy.private_hosts == ("minio:9000",)
    assert policy.max_bytes == 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MEDIA_FOLDERS", "images"),
        ("MEDIA_FOLDERS", "/srv/images:more"),
        ("MEDIA_HOSTS", "https://images.example"),
        ("MEDIA_PRIVATE_HOSTS", "minio/bucket"),
        ("MEDIA_MAX_BYTES", "0"),
    ],
)
def test_what_would_never_match_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"PGMEANING_{name}", value)
    with pytest.raises(ValidationError):
        Settings()
