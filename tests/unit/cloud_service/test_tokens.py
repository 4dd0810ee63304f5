"""Tokens in a file."""

import pytest

from cloud_service.tokens import MIN_LENGTH, new_token, read_tokens
from shared.errors import SettingsError

TOKEN, OTHER = new_token(), new_token()


def test_new_tokens_are_long_and_no_option():
    made = [new_token() for _ in range(300)]
    assert len(set(made)) == 300
    assert min(map(len, made)) >= MIN_LENGTH
    assert not any(token.startswith("-") for token in made)


def test_file_may_have_names_notes_and_empty_lines(tmp_path):
    (tmp_path / "tokens").write_text(f"# ours\n\n{TOKEN} anna, at the desk\n  {OTHER}\n")
    tokens = read_tokens(tmp_path / "tokens")
    words = (TOKEN, OTHER, "anna,", "# ours", "ours", "")
    assert [tokens.admit(f"Bearer {word}") for word in words] == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read"), ("# none\n", "edgeloop token new"), (f"{TOKEN}\nanna {OTHER}\n", "line 2"), ("\xff", "")],
    ids=["no file", "no token", "a token where a name belongs", "not text"],
)
def test_file_that_lets_nobody_or_anybody_in_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "tokens").write_text(content, encoding="latin-1")
    with pytest.raises(SettingsError, match="token_file") as found:
        read_tokens(tmp_path / "tokens")
    assert words in str(found.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_file_that_everybody_reads_is_warned_of(tmp_path, caplog, mode, warned):
    (tmp_path / "tokens").write_text(TOKEN)
    (tmp_path / "tokens").chmod(mode)
    read_tokens(tmp_path / "tokens")
    assert ("chmod 600" in caplog.text) == warned
