"""A cloud that keeps signed metadata, and an engineer's working copy of it: made by the commands' own code, in folders of a test."""

import shutil
from pathlib import Path

from cloud_service import write_config

from outrider.ota import founding
from outrider.ota.workplace import Workplace

SECRET = b"of these tests"


def engineer(folder: Path, *, task: str = "colours", automatic: bool = False) -> Workplace:
    """A repository with all its keys, in ``folder/work``."""
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / "passphrase"
    secret.write_bytes(SECRET)
    place = Workplace(folder / "work", lambda _: SECRET)
    founding.found_here(place, founding.wished([task], "2of3", [], "", automatic=automatic, canary=[]), secret)
    return place


def key_of(place: Workplace, name: str) -> str:
    """URI of a key of the working copy."""
    return f"file:{place.keys / f'{name}.pem'}"


def cloud_config(folder: Path, broker: str, place: Workplace) -> Path:
    """``cloud.toml`` of a cloud that was given what it needs of the engineer's folder: no offline key."""
    repository = folder / "repository"
    for part in ("metadata", "targets"):
        shutil.copytree(place.repository.folder / part, repository / part)
    (repository / "keys").mkdir()
    for role in ("snapshot", "timestamp", "control"):
        (place.keys / f"{role}.pem").rename(repository / "keys" / f"{role}.pem")
    return write_config(folder, broker, more='[trust]\nrepository = "repository"')
