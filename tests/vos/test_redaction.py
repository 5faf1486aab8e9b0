"""What is a secret in a text, what is none, and that nothing of it reaches a stream, an error line or a saved configuration."""

import io
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vos.config import TrainConfig, TuneConfig
from vos.config.command_line import run_job
from vos.config.fields import Mark, leaves
from vos.errors import InputError
from vos.files.canonical import dumps, to_dict
from vos.redaction import RedactedStream, has_secret, hide, redact, redact_all, visible, without_secret

ROOT = Path(__file__).resolve().parents[2]
SECRET = "pLaNtEd7"
ADDRESSES = [
    "s3://AKIA{0}:{0}@team/caches/one",
    "s3://{0}@team/caches",
    "s3://AKIA:a/{0}+b/c@team/caches",
    "s3:/AKIA:{0}@team/caches",
    "postgresql+psycopg2://user:{0}@db.example:5432/mlflow?sslmode=require",
    "mysql://root:{0}@[2001:db8::1]:3306/mlflow",
    "http://user:{0}@127.0.0.1:5000/",
    "https://{0}@host/path",
    "http://user:p@{0}@host/x",
    "http://user:p%40{0}@[::1]:5000",
    "http://user:a?{0}@host/x",
    "http://user:a#{0}@host/x",
    "HTTPS://User:{0}@HOST",
    "https://host/x?access_key=a{0}&secret_key={0}&x=1",
    "https://host/clip.mp4?X-Amz-Credential=A&X-Amz-Signature={0}&X-Amz-Security-Token={0}",
    "https://account.blob.core.windows.net/c/b?sv=2022&sig={0}%2B",
    "https://host/x?%74oken={0}",
    "abfs://container:{0}@account.dfs.core.windows.net/x",
]
SETTINGS = [
    "AWS_SECRET_ACCESS_KEY={0}",
    "export MLFLOW_TRACKING_PASSWORD={0}; run",
    "{{'AWS_SESSION_TOKEN': '{0}', 'HOME': '/root'}}",
    '{{"aws_secret_access_key": "{0}"}}',
    "aws_secret_access_key='{0}'",
    "host=db user=me password={0} dbname=mlflow",
    "Authorization: Basic {0}==",
    "headers {{'Authorization': 'Bearer {0}'}}",
    "curl -H 'authorization: {0}'",
]
PLAIN = [
    "",
    "://",
    "s3://",
    "@",
    "s3://bucket/folder/a@b/c",
    "http://127.0.0.1:5000/#/experiments",
    "http://[::1]:5000/users/x@y",
    "sqlite:////home/me@work/runs/mlflow.db",
    "abfs://container@account.dfs.core.windows.net/x",
    "gs://anonymous@bucket/x",
    "models:/mobilevos-tiny@champion",
    "/data/a:b@c/masks",
    "mail me@example.com at 10:30",
    "--loss.temperature 2.0: use a value above 0",
    "token authentication is on; key: value; ratio = 3; tokens: 5",
    "https://host/x?region=eu&scheme=http&endpoint_override=127.0.0.1:9000",
]


@pytest.mark.parametrize("text", [*ADDRESSES, *SETTINGS])
@pytest.mark.parametrize(
    "around", ["{}", "error: {}: cannot be read (x); use it\n", "[{}, http://a:b@c/d] s3://k:v@w/z"]
)
def test_a_secret_is_taken_out_of_any_text_once_and_for_all(text: str, around: str):
    shown = redact(around.format(text.format(SECRET)))
    assert SECRET not in shown and redact(shown) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_text_without_a_secret_stays_as_it_is(text: str):
    assert redact(text) == text and not has_secret(text)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_with_a_secret_is_known_and_shows_its_host(address: str):
    assert has_secret(address.format(SECRET)) and SECRET not in without_secret(address.format(SECRET))
    assert has_secret(address.format(f"{SECRET} with spaces")) or "@" not in address
    shown = without_secret("http://user:password@host.example:5000/mlflow")
    assert shown == "http://***@host.example:5000/mlflow"


@given(st.text())
def test_any_text_is_taken_and_redacting_twice_changes_nothing(text: str):
    assert redact(redact(text)) == redact(text)
    assert visible(text).replace("\n", "").replace("\t", "").replace("\r", "").isprintable() or "\x1b" in text


@pytest.mark.parametrize("part", ["a.", "SECRET", "?", "s3://", "http://u:", "secret_", "://@", "a:/", "'", "Bearer "])
def test_a_long_hostile_text_takes_no_longer_than_its_length(part: str):
    began = time.process_time()
    redact(part * (400_000 // len(part)) + "@")
    assert time.process_time() - began < 2


def test_secrets_of_the_environment_are_found_wherever_they_stand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}/key")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{SECRET}%40password@host")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")  # a word of the language: only long values are looked for
    shown = redact_all(f"signed with {SECRET}/key, login {SECRET}@password or {SECRET}%40password; a test")
    assert SECRET not in shown and shown.endswith("a test")


def test_parts_that_a_library_cut_at_the_wrong_place_are_hidden():
    address = "postgresql://user:pass@word%21@host/db"
    assert hide('cannot resolve "word!@host" as pass@word%21', address) == 'cannot resolve "***@host" as ***@***'


def test_an_error_line_never_holds_a_secret():
    for address in ADDRESSES:
        assert SECRET not in str(InputError(f"{address.format(SECRET)}: cannot be used"))


def test_a_stream_redacts_shows_control_characters_and_lets_progress_bars_move():
    kept = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = RedactedStream(kept)
    assert stream.write("s3://k:s@b\r\n") == len("s3://k:s@b\r\n")
    stream.writelines(["\x1b[A\r 50%|█", "\x1b]0;title\x07", "\x1b[2J", "\x1b[31mred\x1b[0m", "\u202etxt\udcff\x9b"])
    kept.flush()
    assert kept.buffer.getvalue() == (  # pyright: ignore[reportAttributeAccessIssue]
        b"s3://***@b\r\n\x1b[A\r 50%|\\u2588\\x1b]0;title\\x07\\x1b[2J\x1b[31mred\x1b[0m\\u202etxt\\udcff\\x9b"
    )


def test_a_saved_configuration_holds_no_secret():
    config = TuneConfig(train=TrainConfig(init=ADDRESSES[0].format(SECRET), trunk_weights="weights.pth"))
    assert SECRET not in dumps(config) and SECRET not in json.dumps(to_dict(config))
    assert to_dict(config)["train"]["trunk_weights"] == "weights.pth"


def test_an_error_of_ours_is_printed_without_secrets(tmp_path: Path):
    code = (
        "import sys\nfrom vos.config.command_line import run_job\nfrom vos.config import TrainConfig\n"
        "def job(config):\n    print('at', sys.argv[1])\n    raise RuntimeError(sys.argv[1])\n"
        "run_job(TrainConfig, '', job, [])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ADDRESSES[0].format(SECRET)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "RuntimeError: s3://***@team/caches/one" in done.stderr
    assert SECRET not in done.stdout + done.stderr and "at s3://***@team" in done.stdout


def text_flags(config: object) -> list[tuple[str, Mark]]:
    """(flag, mark) of every text of a configuration."""
    return [
        (f"--{name.replace('_', '-')}", mark)
        for name, value, mark in leaves(config)
        if mark.path or isinstance(value, str)
    ]


JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("[a-z]*.py"))


@pytest.mark.parametrize("job", JOBS)
def test_every_text_of_every_job_is_refused_with_a_secret_in_it_and_the_line_does_not_show_it(
    job: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    module = import_module(f"jobs.{job}")
    configs = {name: value for name, value in vars(module).items() if name.endswith("Config")}
    assert configs
    for name, cls in configs.items():
        words = ["fps"] if name.startswith("Fps") else []
        for number, (flag, mark) in enumerate([("--config", Mark()), *text_flags(cls())]):
            if mark.streamed:
                continue
            planted = f"s3://AKIA:{SECRET}{number}@team/{flag.strip('-')}.mp4"
            planted = f"folder={planted}:0.5" if mark.split else planted
            capfd.readouterr()
            assert module.main([*words, flag, planted]) == 2, flag
            said = capfd.readouterr()
            assert SECRET not in said.out + said.err and said.err.count("\n") == 1, (flag, said)
            assert flag in said.err, said.err
    assert os.listdir(tmp_path) == []


def test_a_secret_in_a_configuration_file_or_in_davis_root_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "config.json").write_text(json.dumps({"cache": ADDRESSES[0].format(SECRET)}))
    assert run_job(TrainConfig, "", print, ["--config", str(tmp_path / "config.json")]) == 2
    monkeypatch.setenv("DAVIS_ROOT", ADDRESSES[0].format(SECRET))
    assert run_job(TrainConfig, "", print, []) == 2
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err and said.err.count("AWS_SECRET_ACCESS_KEY") == 2
