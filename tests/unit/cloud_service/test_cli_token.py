"""`edgeloop token`, and how the commands show theirs."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cloud_service.tokens import MIN_LENGTH, read_tokens


@pytest.fixture
async def asked():
    """A service, its address first, and then what each request said of itself."""
    seen = []

    async def incidents(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"items": []})

    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound("/api/v1/incidents")

    app = web.Application()
    app.router.add_get("/api/v1/incidents", incidents)
    app.router.add_get("/api/v1/models", moved)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), seen


async def test_new_token_is_printed_and_added_to_a_file_of_its_owners(edgeloop, tmp_path):
    file = tmp_path / "tokens"
    made = [(await edgeloop("token", "new", *more))[1].strip() for more in ((), ("anna", "--append", file))]
    file.write_text(file.read_text().rstrip("\n"))
    made.append((await edgeloop("token", "new", "--append", file))[1].strip())
    assert [len(token) >= MIN_LENGTH for token in made] == [True] * 3
    assert len(set(made)) == 3
    assert file.read_text() == f"{made[1]} anna\n{made[2]}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    tokens = read_tokens(file)
    assert [tokens.admit(f"Bearer {token}") for token in made] == [False, True, True]


async def test_new_token_that_cannot_be_kept_is_not_shown(edgeloop, tmp_path):
    code, out, err = await edgeloop("token", "new", "--append", tmp_path / "none" / "tokens")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert (await edgeloop("token", "new", "a\nb"))[0] == 2


async def test_commands_send_the_token_they_are_given(edgeloop, asked, tmp_path, monkeypatch):
    url, seen = asked
    incidents = ("incidents", "--url", url)
    (tmp_path / "token").write_text("from-a-file anna\n")
    await edgeloop(*incidents)
    monkeypatch.setenv("EDGELOOP_TOKEN", "from-outside")
    await edgeloop(*incidents)
    await edgeloop("--token-file", tmp_path / "token", *incidents)
    monkeypatch.setenv("EDGELOOP_TOKEN_FILE", str(tmp_path / "token"))
    await edgeloop(*incidents)
    assert seen == [None, "Bearer from-outside", "Bearer from-a-file", "Bearer from-a-file"]


async def test_token_does_not_go_where_an_answer_refers_to(edgeloop, asked, monkeypatch):
    url, seen = asked
    monkeypatch.setenv("EDGELOOP_TOKEN", "mine")
    assert (await edgeloop("model", "list", "--url", url))[0] == 0
    assert seen == [None]


@pytest.mark.parametrize(("content", "words"), [(None, "cannot read"), (" \n", "is empty")])
async def test_token_file_without_a_token_is_said(edgeloop, tmp_path, content, words):
    if content is not None:
        (tmp_path / "token").write_text(content)
    code, _, err = await edgeloop("--token-file", tmp_path / "token", "incidents")
    assert (code, words in err, err.count("\n")) == (2, True, 1)
