"""Brings the store's schema up to date, revision by revision. Knows no table: the revisions do."""

import logging
from pathlib import Path

import sqlalchemy as sa

from outrider_cloud.store.dialect import Dialect
from outrider_wire.errors import OperatorSetupError


def upgrade(engine: sa.Engine, dialect: Dialect) -> None:
    """Applies every revision that the database does not have yet, in one transaction.

    Raises:
        OperatorSetupError: a newer version has written it.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells at length what it finds in order
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with engine.execution_options(immediate=True).begin() as connection:
        dialect.enter(connection)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:  # its revision is none of ours
            raise OperatorSetupError(
                f"the store has a schema that this version does not know: {error}",
                reason="store_too_new",
                fix="run the version that wrote it, or restore an older copy",
            ) from error
