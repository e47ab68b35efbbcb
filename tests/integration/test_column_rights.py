"""Column privileges: what may not be read of the source is not told by its vectors, their words or a search either."""

from __future__ import annotations

import psycopg
import pytest

import pgmeaning
from pgmeaning.errors import DatabaseError
from tests.integration.docs import Docs, cache
from tests.integration.roles import PASSWORD, Role
from tests.integration.test_chunks import embed_all
from tests.types import Connection, Drain

VECTORS = 'pgmeaning_data."staff__synthetic-384"'

DOCS = Docs(
    columns="id int PRIMARY KEY, pub text, salary text",
    rows="SELECT i, 'pub ' || i, repeat('the salary is one million. ', 20) FROM generate_series(1, 3) AS i",
    attach="'{pub,salary}', collection => 'staff', language => 'english', "
    'chunking => \'{"method": "sentences", "size": 16}\'',
    cached={"salary": "salary"},
)

# Every public way to what was embedded.
EVERY_WAY = [
    "SELECT * FROM pgmeaning.search('staff', 'salary')",
    "SELECT * FROM pgmeaning.search('staff', 'salary', mode => 'exact', filter => 'id = 1')",
    "SELECT * FROM pgmeaning.search('staff', 'salary', mode => 'hybrid')",
    "SELECT * FROM pgmeaning.search('staff', 'salary', rerank => 5)",
    "SELECT * FROM pgmeaning.search(NULL::docs, 'salary')",
    "SELECT * FROM pgmeaning.search(NULL::docs, 'salary', 'id = $1', ARRAY['1'])",
    "SELECT * FROM pgmeaning.search_many('staff', '{salary}')",
    "SELECT * FROM pgmeaning.nearest('staff', pgmeaning.embed('salary'))",
    "SELECT * FROM pgmeaning.similar('staff', '1')",
    "SELECT chunk_text FROM staff_embedding",
    "SELECT count(*) FROM staff_embedding WHERE id = 1",
    f"SELECT chunk_text FROM {VECTORS}",
    f"SELECT id FROM {VECTORS} WHERE words @@ 'million'",
    f"SELECT embedding FROM {VECTORS} ORDER BY signature <~> (SELECT signature FROM {VECTORS} LIMIT 1)",
    f"SELECT words, content_hash FROM {VECTORS}",
    "SELECT embedded_text FROM pgmeaning._rows('staff', ARRAY['{\"id\": 1}'::jsonb], '{NULL}', '{salary}')",
    "SELECT pgmeaning._texts(c, ARRAY['{\"id\": 1}'::jsonb], '{NULL}') FROM pgmeaning._collection('staff'::text) AS c",
    "SELECT pgmeaning._nearest_to_text(c, pgmeaning._active_target(c), repeat('1,', 383), ROW(1, NULL, 'exact', NULL, "
    "true, NULL, NULL, NULL)) FROM pgmeaning._collection('staff'::text) AS c".replace(
        "repeat('1,', 383)", "'[' || repeat('1,', 383) || '1]'"
    ),
]


@pytest.fixture
def staff(docs: Connection, dsn: str) -> Connection:
    embed_all(dsn)
    return docs


def reader(db: Connection, role: Role, columns: str = "id, pub") -> None:
    """May read these columns of the source, and the vectors."""
    db.execute(f"GRANT SELECT ({columns}) ON docs TO {role.name}")
    db.execute(f"GRANT SELECT ON {VECTORS}, staff_embedding TO {role.name}")


def refusals(role: Role, ways: list[str]) -> dict[str, str | None]:
    """The SQLSTATE of each."""
    found: dict[str, str | None] = {}
    for statement in ways:
        try:
            role.connection.execute(statement)
            found[statement] = None
        except psycopg.Error as error:
            found[statement] = error.sqlstate
    return found


def test_no_way_leads_to_a_column_that_may_not_be_read(staff: Connection, role: Role) -> None:
    reader(staff, role)
    found = refusals(role, EVERY_WAY)
    assert {way: state for way, state in found.items() if state not in ("PM011", "42501")} == {}
    assert {way for way, state in found.items() if state == "42501"} <= set(EVERY_WAY[-3:]), "ours say what to do"


def test_the_refusal_names_the_grant_that_helps(staff: Connection, role: Role) -> None:
    reader(staff, role)
    for statement in (EVERY_WAY[0], EVERY_WAY[9]):
        error = role.refusal(statement)
        assert error.diag.message_hint == f"GRANT SELECT (salary) ON public.docs TO {role.name}", statement
        assert "may not read salary of public.docs" in str(error)
        assert "million" not in str(error)


def test_the_grant_of_the_hint_is_enough(staff: Connection, role: Role) -> None:
    reader(staff, role)
    staff.execute(str(role.refusal(EVERY_WAY[0]).diag.message_hint))
    ways = [way for way in EVERY_WAY if "rerank" not in way and "NULL::docs" not in way]  # these ask for more
    assert set(refusals(role, ways).values()) == {None}


@pytest.mark.parametrize("grant", ["SELECT ON docs", "SELECT (id, pub, salary) ON docs"])
def test_a_grant_on_the_table_is_as_good_as_one_on_each_column(staff: Connection, role: Role, grant: str) -> None:
    reader(staff, role)
    staff.execute(f"GRANT {grant} TO {role.name}")
    assert len(role.rows(EVERY_WAY[0])) == 3
    staff.execute(f"REVOKE SELECT ON docs FROM {role.name}")
    assert role.refusal(EVERY_WAY[0]).sqlstate == "PM011"


def test_a_right_by_membership_counts(staff: Connection, role: Role) -> None:
    reader(staff, role)
    staff.execute(f"CREATE ROLE {role.name}_group; GRANT SELECT ON docs TO {role.name}_group")
    staff.execute(f"GRANT {role.name}_group TO {role.name}")
    try:
        assert len(role.rows(EVERY_WAY[0])) == 3
    finally:
        staff.execute(f"DROP OWNED BY {role.name}_group; DROP ROLE {role.name}_group")


def test_an_owner_that_gave_up_its_right_is_refused_too(staff: Connection, role: Role) -> None:
    reader(staff, role)
    staff.execute(f"GRANT CREATE ON SCHEMA public TO {role.name}; ALTER TABLE docs OWNER TO {role.name}")
    assert len(role.rows(EVERY_WAY[0])) == 3
    role.connection.execute(f"REVOKE SELECT ON docs FROM {role.name}")
    assert role.refusal(EVERY_WAY[0]).sqlstate == "PM011"
    assert role.refusal(EVERY_WAY[9]).sqlstate == "PM011"


def test_a_view_over_the_source_opens_no_search(staff: Connection, role: Role) -> None:
    reader(staff, role)
    staff.execute(f"CREATE VIEW published AS SELECT * FROM docs; GRANT SELECT ON published TO {role.name}")
    assert role.refusal(EVERY_WAY[0]).sqlstate == "PM011"


def test_a_renamed_column_opens_nothing(staff: Connection, role: Role) -> None:
    reader(staff, role)
    staff.execute("ALTER TABLE docs RENAME salary TO pay")
    error = role.refusal(EVERY_WAY[0])
    assert error.diag.message_hint == f"GRANT SELECT ON public.docs TO {role.name}"
    assert role.refusal(EVERY_WAY[9]).sqlstate == "PM011"
    staff.execute(f"GRANT SELECT ON docs TO {role.name}")
    assert len(role.rows(EVERY_WAY[0])) == 3


def test_a_schema_that_may_not_be_used_opens_nothing(staff: Connection, role: Role) -> None:
    reader(staff, role, "id, pub, salary")
    staff.execute("CREATE SCHEMA shop; ALTER TABLE docs SET SCHEMA shop")
    for statement in (EVERY_WAY[0], EVERY_WAY[9]):
        error = role.refusal(statement)
        assert (error.sqlstate, error.diag.message_hint) == ("PM011", f"GRANT USAGE ON SCHEMA shop TO {role.name}")


def test_rights_on_the_partitioned_table_count(db: Connection, drain: Drain, role: Role) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, pub text, salary text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE docs_1 PARTITION OF docs DEFAULT")
    db.execute("INSERT INTO docs VALUES (1, 'pub', 'one million')")
    db.execute("SELECT pgmeaning.attach('docs', '{pub,salary}', collection => 'staff')")
    cache(db, "salary")
    assert drain() == 0
    reader(db, role)
    db.execute(f"GRANT SELECT ON docs_1 TO {role.name}")
    assert role.refusal(EVERY_WAY[0]).sqlstate == "PM011"
    db.execute(f"REVOKE SELECT ON docs_1 FROM {role.name}; GRANT SELECT ON docs TO {role.name}")
    assert len(role.rows(EVERY_WAY[0])) == 1


def test_another_policy_on_the_vectors_is_obeyed_as_well(staff: Connection, role: Role) -> None:
    reader(staff, role)
    staff.execute(f"CREATE POLICY all_of_them ON {VECTORS} FOR SELECT TO {role.name} USING (true)")
    assert len(role.rows(EVERY_WAY[11])) > 3


def test_the_client_is_refused_in_the_same_way(staff: Connection, dsn: str, role: Role) -> None:
    reader(staff, role)
    with pgmeaning.connect(psycopg.conninfo.make_conninfo(dsn, user=role.name, password=PASSWORD)) as client:
        with pytest.raises(DatabaseError) as caught:
            client.search("staff", "salary", columns=["pub"])
        assert caught.value.sqlstate == "PM011"
        with pytest.raises(DatabaseError):
            client.similar("staff", 1, columns=["pub"])


def test_attach_says_that_a_grant_is_useless_so_far(staff: Connection, role: Role) -> None:
    staff.execute(f"GRANT SELECT (id, pub) ON docs TO {role.name}")
    told: list[tuple[str | None, str | None]] = []
    staff.add_notice_handler(lambda notice: told.append((notice.message_primary, notice.message_hint)))
    staff.execute(
        f"SELECT pgmeaning.attach('docs', '{{pub,salary}}', collection => 'more', grant_to => '{{{role.name}}}')"
    )
    assert told == [
        (
            f"role {role.name} can search collection 'more' once it may read salary",
            f"GRANT SELECT (salary) ON public.docs TO {role.name}",
        )
    ]
    staff.execute("SELECT pgmeaning.attach('docs', '{pub}', collection => 'pub', grant_to => '{public}')")
    assert told[1][1] == "GRANT SELECT (id, pub) ON public.docs TO PUBLIC"
