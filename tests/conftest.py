import itertools, psycopg, pytest
C=itertools.count()
def mk():
    import os
    n=f"t{os.getpid()}_{next(C)}"
    with psycopg.connect("postgresql://postgres@127.0.0.1:5999/postgres",autocommit=True) as c: c.execute(f"create database {n} template template0")
    return f"postgresql://postgres@127.0.0.1:5999/{n}"
@pytest.fixture
def database(): return mk()
@pytest.fixture(scope="module")
def module_database(): return mk()
