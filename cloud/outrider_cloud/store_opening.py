"""The store that a configuration names. Opens nothing."""

from pathlib import Path

from outrider_cloud.config import CloudConfig
from outrider_cloud.store.store import Store
from outrider_link.settings import read_secret


def store_of(config: CloudConfig) -> Store:
    """Its store, still to be opened.

    Raises:
        OperatorConfigError: the password's file is missing or empty.
    """
    settings = config.store
    password = read_secret(Path(settings.password_file), "store's password") if settings.password_file else ""
    return Store(url=settings.url or f"sqlite:///{config.folder / 'cloud.db'}", password=password)
