import pytest

from cloud_service.settings import CloudSettings, RolloutMode
from shared.errors import SettingsError

TASK = """
[tasks.digits]
labels = ["a", "b"]
input_shape = [8, 8]
input_dtype = "uint8"
teacher = "models/teacher.onnx"
base_data = "/abs/base.npz"
rollout = "auto"
[tasks.digits.training]
min_samples = 50
"""


def read(tmp_path, text="", **options) -> CloudSettings:
    file = tmp_path / "cloud.toml"
    file.write_text(text)
    return CloudSettings.read(file, environ=options.pop("environ", {}), **options)


def test_paths_are_relative_to_the_settings_file(tmp_path):
    settings = read(tmp_path, 'data_dir = "data"\n[broker]\nca_file = "ca.pem"' + TASK)
    assert settings.data_dir == tmp_path / "data"
    assert settings.broker.ca_file == tmp_path / "ca.pem"
    assert settings.tasks["digits"].teacher[0].model == str(tmp_path / "models/teacher.onnx")
    assert str(settings.tasks["digits"].base_data) == "/abs/base.npz"
    assert settings.database_url == f"sqlite+aiosqlite:///{tmp_path}/data/edgeloop.db"
    assert settings.blobs_url == f"file://{tmp_path}/data/blobs"


def test_urls_that_are_given_win(tmp_path):
    settings = read(tmp_path, '[database]\nurl = "postgresql+asyncpg://db/x"\n[blobs]\nurl = "s3://bucket/blobs"')
    assert (settings.database_url, settings.blobs_url) == ("postgresql+asyncpg://db/x", "s3://bucket/blobs")


def test_task_is_named_by_its_table_and_trained_without_what_the_service_adds(tmp_path):
    task = read(tmp_path, TASK).tasks["digits"]
    assert (task.name, task.rollout, task.training.min_samples) == ("digits", RolloutMode.AUTO, 50)
    assert (task.terms.labels, task.terms.input.shape) == (2, (8, 8))
    assert "rollout" not in task.definition.model_dump()
    assert task.definition.name == "digits"


def test_rollout_is_manual_unless_somebody_says_otherwise(tmp_path):
    assert read(tmp_path, TASK.replace('rollout = "auto"', "")).tasks["digits"].rollout is RolloutMode.MANUAL


def test_environment_and_overrides_win_over_the_file(tmp_path):
    settings = read(
        tmp_path,
        '[http]\nport = 1\nhost = "a"\n' + TASK,
        environ={"EDGELOOP__HTTP__PORT": "2", "EDGELOOP__BROKER__HOST": "b"},
        overrides=["broker.host=c", "tasks.digits.training.steps=5"],
    )
    assert (settings.http.port, settings.http.host, settings.broker.host) == (2, "a", "c")
    assert settings.tasks["digits"].training.steps == 5


def test_public_url_defaults_to_where_the_api_listens(tmp_path):
    assert read(tmp_path, "[http]\nport = 9").http.base_url == "http://127.0.0.1:9"
    everywhere = '[http]\nhost = "0.0.0.0"\nport = 0\npublic_url = "https://x"'
    assert read(tmp_path, everywhere).http.base_url == "https://x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('sight = "x"', "did you mean 'site'"),
        ("[htp]\nport = 1", "did you mean 'http'"),
        ("[ingest]\nbach = 1", "did you mean 'batch'"),
        (TASK.replace("teacher", "teecher"), "did you mean 'teacher'"),
        (TASK.replace('"auto"', '"soon"'), "rollout"),
        (TASK + '\n[tasks.sounds]\nname = "digits"\n', "tasks.sounds"),
        (TASK.replace("[tasks.digits]", '[tasks.digits]\nname = "sounds"'), "leave its name out"),
        ("tasks = 3", "tasks"),
        ("[tasks]\ndigits = 3", "tasks.digits"),
        ('[tasks."a/b"]\n', "a/b"),
        ("[http]\nport = 70000", "http.port"),
        ('[http]\nhost = "0.0.0.0"', "public_url"),
        ("[http]\nport = 0", "public_url"),
        ("x = ", "not valid TOML"),
    ],
)
def test_wrong_settings_name_the_key(tmp_path, text, words):
    with pytest.raises(SettingsError, match=words):
        read(tmp_path, text)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.toml"):
        CloudSettings.read(tmp_path / "none.toml")
