"""Collections in the migrations of an Alembic project: autogenerate, upgrade, downgrade."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Column, Integer, MetaData, Table, Text

from pgmeaning.errors import ArgumentError
from pgmeaning.integrations.alembic import AttachCollection, Collection, DetachCollection
from tests.integration.test_connecting import url
from tests.types import Connection

ENV = """
from alembic import context
from pgmeaning.integrations import alembic as pgmeaning_alembic
given = context.config.attributes
told = {"target_metadata": given["metadata"], "include_schemas": True, **given["options"]}
if context.is_offline_mode():
    context.configure(url="postgresql+psycopg://", literal_binds=True, dialect_opts={"paramstyle": "named"}, **told)
    with context.begin_transaction():
        context.run_migrations()
else:
    with given["engine"].connect() as connection:
        context.configure(connection=connection, **told)
        with context.begin_transaction():
            context.run_migrations()
"""
MAKO = """
from alembic import op
import sqlalchemy as sa
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
"""


class Project:
    """An Alembic project in a folder, whose migrations are generated."""

    def __init__(self, folder: Path, engine: sqlalchemy.Engine) -> None:
        from pgmeaning.integrations import alembic as ours

        (folder / "versions").mkdir()
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text(MAKO)
        self.config = Config()
        self.config.set_main_option("script_location", str(folder))
        self.config.attributes.update(engine=engine, options={"include_object": ours.include_object})
        self.engine = engine

    def generated(self, *collections: Collection, tables: bool = True) -> str:
        """The text of a new migration that leads to a table with these collections."""
        metadata = MetaData()
        if tables:
            columns = [Column("title", Text), Column("it's: 100 %", Text)]
            Table("docs", metadata, Column("id", Integer, primary_key=True), *columns, info={"pgmeaning": collections})
        else:
            Table("other", metadata, Column("id", Integer, primary_key=True), info={"pgmeaning": []})
        self.config.attributes["metadata"] = metadata
        script: Any = command.revision(self.config, autogenerate=True)
        return Path(script.path).read_text()

    def upgraded(self, *collections: Collection, tables: bool = True) -> str:
        """The same; it was run, and another one would be empty."""
        text = self.generated(*collections, tables=tables)
        command.upgrade(self.config, "head")
        command.check(self.config)
        return text

    def query(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

    def collections(self) -> list[Any]:
        return self.query("SELECT name, columns::text[], role FROM pgmeaning.collection ORDER BY name")


@pytest.fixture
def project(tmp_path: Path, dsn: str) -> Iterator[Project]:
    engine = sqlalchemy.create_engine(url(dsn))
    yield Project(tmp_path, engine)
    engine.dispose()


def test_a_projects_upgrades_and_downgrades_run(project: Project) -> None:
    first = project.upgraded(Collection(columns=["title"]))
    assert "op.attach_collection('docs', columns=['title'])" in first
    assert first.index("op.create_table('docs'") < first.index("op.attach_collection")
    assert first.index("op.detach_collection('docs')") < first.rindex("op.drop_table('docs')")
    assert "pgmeaning_data" not in first
    assert first.count("op.drop_table") == 1  # in its downgrade, of the project's own
    assert project.collections() == [("docs", ["title"], "active")]

    second = project.upgraded(Collection(columns=["title", "it's: 100 %"]), Collection(["title"], name="other"))
    assert "op.alter_collection('docs', columns=['title', \"it's: 100 %\"])" in second
    assert "op.alter_collection('docs', undo=True, columns=['title'])" in second
    assert project.collections() == [
        ("docs", ["title"], "active"),
        ("docs@2", ["title", "it's: 100 %"], "filling"),
        ("other", ["title"], "active"),
    ]
    command.downgrade(project.config, "-1")
    assert project.collections() == [("docs", ["title"], "active")]
    command.downgrade(project.config, "base")
    assert project.collections() == []
    assert project.query("SELECT to_regclass('docs')") == [(None,)]
    command.upgrade(project.config, "head")
    assert len(project.collections()) == 3


def test_a_declaration_that_is_gone_detaches_and_its_downgrade_attaches(project: Project) -> None:
    template = Collection(template="It's {title}: 100 % \\", vector_type="halfvec", language="simple", name="d",
                          chunking={"method": "tokens", "size": 100, "overlap": 10})  # fmt: skip
    project.upgraded(template)
    kept = "SELECT template, chunking, language, vector_type FROM pgmeaning.collection JOIN pgmeaning.target ON true"
    before = project.query(kept)
    assert before[0][0] == "It's {title}: 100 % \\"
    assert "op.detach_collection('d')" in project.upgraded()
    assert project.collections() == []
    command.downgrade(project.config, "-1")
    assert project.query(kept) == before


def test_a_table_that_is_dropped_is_detached_before(project: Project) -> None:
    project.upgraded(Collection(["title"]))
    text = project.upgraded(tables=False)
    assert text.index("op.detach_collection('docs')") < text.index("op.drop_table('docs')")
    command.downgrade(project.config, "-1")
    assert project.collections() == [("docs", ["title"], "active")]


def test_a_swap_that_was_finished_is_taken_back_by_another(project: Project, db: Connection, drain: Any) -> None:
    project.upgraded(Collection(["title"]))
    project.upgraded(Collection(["it's: 100 %"]))
    assert drain() == 0
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    command.check(project.config)
    command.downgrade(project.config, "-1")
    assert project.collections() == [("docs", ["title"], "active")]
    command.upgrade(project.config, "head")
    assert drain() == 0
    db.execute("SELECT pgmeaning.swap_activate('docs'), pgmeaning.swap_finish('docs')")
    command.downgrade(project.config, "-1")
    assert [(columns, role) for _, columns, role in project.collections()] == [
        (["it's: 100 %"], "active"),
        (["title"], "filling"),
    ]


def test_a_migration_that_fails_attaches_nothing(project: Project) -> None:
    project.upgraded(Collection(["title"]))
    project.generated(Collection(["title"]), Collection(["title"], name="second"))
    path = Path(str(ScriptDirectory.from_config(project.config).get_revision("head").path))
    path.write_text(path.read_text().replace("def downgrade", "    op.execute('SELECT 1/0')\ndef downgrade"))
    with pytest.raises(sqlalchemy.exc.DataError):
        command.upgrade(project.config, "head")
    assert project.collections() == [("docs", ["title"], "active")]


def test_without_our_filter_our_tables_would_be_dropped(project: Project) -> None:
    project.config.attributes["options"] = {}
    assert project.generated(Collection(["title"])).count("schema='pgmeaning'") > 10
    from pgmeaning.integrations import alembic as ours

    project.config.attributes["options"] = {"include_name": ours.include_name}
    for path in Path(str(project.config.get_main_option("script_location"))).glob("versions/*.py"):
        path.unlink()
    assert "schema='pgmeaning'" not in project.generated(Collection(["title"]))


def test_a_project_that_declares_none_is_left_alone(project: Project, db: Connection) -> None:
    project.upgraded(Collection(["title"]))
    metadata = MetaData()
    columns = [Column("title", Text), Column("it's: 100 %", Text)]
    Table("docs", metadata, Column("id", Integer, primary_key=True), *columns)
    project.config.attributes["metadata"] = metadata
    command.check(project.config)


def test_the_sql_of_a_migration_can_be_printed(project: Project, db: Connection) -> None:
    project.generated(Collection(["it's: 100 %"], template="{title} it's: 100 % \\ x"))
    printed = io.StringIO()
    project.config.output_buffer = printed
    command.upgrade(project.config, "head", sql=True)
    for statement in printed.getvalue().split(";\n"):
        if "attach(" in statement:
            db.execute('CREATE TABLE docs (id int PRIMARY KEY, title text, "it\'s: 100 %" text)')
            db.execute(statement.encode())
    assert db.execute("SELECT template FROM pgmeaning.collection").fetchall() == [("{title} it's: 100 % \\ x",)]


def test_what_is_no_collection_is_refused(project: Project) -> None:
    with pytest.raises((ArgumentError, CommandError), match=r"Table\.info"):
        project.generated("title")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="nothing says how 'docs' was attached"):
        DetachCollection("docs").reverse()
    assert DetachCollection("docs", attached=AttachCollection("docs", None, {})).reverse().collection == "docs"
