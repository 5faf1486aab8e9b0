"""Versions: which is champion, and that a registered model segments anywhere exactly as it does here."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from pipelines import tracking
from pipelines.evaluation.evaluate import evaluate_model
from pipelines.runtime.videos import index_videos
from pipelines.tracking import champion, registry
from vos.config import BUILTIN_TEACHER, CacheConfig, EvaluateConfig, FpsConfig, MemoryConfig
from vos.config.presets import preset
from vos.errors import InputError
from vos.files.seals import sealed
from vos.inference import served
from vos.inference.whole_video import memory_policy, segment_video
from vos.models import build
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import DIGEST, load_checkpoint, save_checkpoint

CONFIG = CacheConfig(seed=3)
PROTOCOL = {"split": "val", "size_px": 0}
QUICK = {"max_frames": 3, "register": True, "fps": FpsConfig(sequences=0)}


@pytest.fixture
def client(store: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=store, registry_uri=store)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("checkpoint"))
    save_checkpoint(folder, build("mobilevos-tiny"), {"role": "student"})
    return folder


def evaluated(
    name: str, folder: str, score: float, data: str = "d1", protocol: Any = None, version: str = "", weights: str = ""
) -> str:
    """Register under `name` what an evaluation found; returns the answer."""
    found = {"metrics": {"val/j_and_f": score}, "data": data, "protocol": protocol or PROTOCOL, "serving": {}}
    found["weights"] = weights or load_checkpoint(folder)[1][DIGEST]
    with tracking.start_run("testing", "evaluated", CONFIG) as run:
        return run.register_evaluated(name, folder, found, version)


def aliases(client: Any, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def test_champion_moves_only_to_what_the_same_evaluation_found_better_and_says_why(client: Any, checkpoint: str):
    name = "contended"
    evaluated(name, checkpoint, 0.60)
    assert aliases(client, name) == {"champion": "1"}
    evaluated(name, checkpoint, 0.55)
    assert aliases(client, name) == {"champion": "1", "challenger": "2"}
    evaluated(name, checkpoint, 0.99, data="other videos")
    evaluated(name, checkpoint, 0.99, protocol={"split": "val", "size_px": 240})
    assert aliases(client, name) == {"champion": "1", "challenger": "4"}
    evaluated(name, checkpoint, 0.70)
    assert aliases(client, name) == {"champion": "5", "challenger": "4"}
    reasons = [client.get_model_version(name, str(number)).description for number in range(1, 6)]
    assert "first version" in reasons[0]
    assert "not better than 60.00 of version 1" in reasons[1]
    assert "other videos than version 1" in reasons[2]
    assert "size_px: 0 -> 240" in reasons[3]
    assert "better than 60.00 of version 1 on the same videos and protocol" in reasons[4]


def test_a_champion_evaluated_by_a_new_protocol_stays_and_is_what_others_are_then_compared_with(
    client: Any, checkpoint: str
):
    name, other = "renewed", {"split": "val", "size_px": 240}
    evaluated(name, checkpoint, 0.60)
    evaluated(name, checkpoint, 0.50, protocol=other, version="1")
    assert len(client.search_model_versions(f"name = '{name}'")) == 1
    evaluated(name, checkpoint, 0.55, protocol=other)
    assert aliases(client, name) == {"champion": "2"}


TAGS = {champion.SCORE: "0.6", champion.DATA: "d1", champion.PROTOCOL: json.dumps(PROTOCOL), "version": "1"}


@pytest.mark.parametrize("score", ["nan", "-nan", "inf", "1e999", "-0.1", "1.1", "", "good", "0", "0.0", None, "0x1"])
@pytest.mark.parametrize("reigning", [None, TAGS])
def test_a_version_without_a_proper_score_never_becomes_champion(score: str | None, reigning: dict[str, str] | None):
    new = {name: value for name, value in {**TAGS, champion.SCORE: score}.items() if value is not None}
    assert champion.verdict(new, reigning)[0] == "challenger"


@pytest.mark.parametrize("name", [champion.SCORE, champion.DATA, champion.PROTOCOL])
@pytest.mark.parametrize("value", [None, "", "nan", "{", "[]", "[" * 10_000, "null", '{"split": NaN}', "\x00"])
def test_whatever_the_tags_of_the_champion_say_the_comparison_ends_and_it_stays(name: str, value: str | None):
    odd = {key: one for key, one in {**TAGS, name: value}.items() if one is not None}
    new = {**TAGS, champion.SCORE: "0.9", "version": "2"}
    assert champion.verdict(new, odd)[0] == "challenger"
    assert champion.verdict({**odd, champion.SCORE: "0.9"}, TAGS)[0] == (
        "champion" if name == champion.SCORE else "challenger"
    )


def test_a_champion_evaluated_again_without_a_score_keeps_its_figures(client: Any, checkpoint: str):
    evaluated("again", checkpoint, 0.6)
    assert "champion" in evaluated("again", checkpoint, float("nan"), version="1")
    assert client.get_model_version("again", "1").tags[champion.SCORE] == "0.6"
    evaluated("again", checkpoint, float("nan"))
    assert aliases(client, "again") == {"champion": "1", "challenger": "2"}


def test_a_version_records_its_weights_and_only_the_evaluated_ones_are_registered(client: Any, checkpoint: str):
    digest = hashlib.sha256(Path(checkpoint, "model.safetensors").read_bytes()).hexdigest()
    evaluated("recorded", checkpoint, 0.6)
    tags = client.get_model_version("recorded", "1").tags
    assert (tags[registry.WEIGHTS_TAG], tags[registry.FINITE_TAG]) == (digest, "true")
    with pytest.raises(InputError, match="have changed since they were evaluated"):
        evaluated("recorded", checkpoint, 0.7, weights="0" * 64)
    client.set_model_version_tag("recorded", "1", registry.WEIGHTS_TAG, "1" * 64)
    with pytest.raises(InputError, match="other weights than those evaluated"):
        evaluated("recorded", checkpoint, 0.7, version="1")
    assert len(client.search_model_versions("name = 'recorded'")) == 1


def with_nan(folder: Path) -> None:
    """Weights that hold NaN, with digests that fit, as a stranger would publish them."""
    weights = load_file(folder / "model.safetensors")
    weights["decoder.pred.bias"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors")
    about = json.loads((folder / "model.json").read_text())
    about.pop("seal")
    about[DIGEST] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_bytes(sealed(about, "checkpoint", about[DIGEST]))


def test_a_model_with_nan_is_neither_evaluated_nor_registered(client: Any, checkpoint: str, tmp_path: Path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    with_nan(folder)
    config = replace(preset(EvaluateConfig, "smoke"), checkpoint=str(folder), out=str(tmp_path / "out"), **QUICK)
    before = len(client.search_model_versions())
    with pytest.raises(InputError, match=r"decoder\.pred\.bias holds NaN"):
        evaluate_model(config)
    with pytest.raises(InputError, match=r"decoder\.pred\.bias holds NaN"):
        evaluated("broken", str(folder), 0.9, weights="any")
    assert len(client.search_model_versions()) == before


def test_a_version_whose_files_were_changed_is_refused_at_loading(client: Any, checkpoint: str, tmp_path: Path):
    evaluated("changed", checkpoint, 0.6)
    place = Path(client.get_model_version_download_uri("changed", "1").removeprefix("file://"), *registry.PACKAGED)
    save_checkpoint(str(place), build("mobilevos-tiny"), {"role": "student"})
    with pytest.raises(InputError, match="are not those that were registered") as refusal:
        registry.resolve("models:/changed@champion", str(tmp_path / "kept"))
    assert "\n" not in str(refusal.value) and not (tmp_path / "kept").exists()


def plain(source: Path, outside: Path) -> None:
    shutil.copytree(outside, source)


def deep_below(source: Path, outside: Path) -> None:
    shutil.copytree(outside, source / "home" / "user" / "models")


def linked_files(source: Path, outside: Path) -> None:
    source.mkdir()
    for name in ("model.json", "model.safetensors"):
        (source / name).symlink_to(outside / name)


def linked_folder(source: Path, outside: Path) -> None:
    (source / "data").mkdir(parents=True)
    (source / "data" / "checkpoint").symlink_to(outside)


def pipes(source: Path, outside: Path) -> None:
    source.mkdir()
    shutil.copy(outside / "model.json", source)
    os.mkfifo(source / "model.safetensors")


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        (plain, ""),
        (deep_below, "holds no checkpoint"),
        (linked_files, "is a link"),
        (linked_folder, "is a link"),
        (pipes, "not a file"),
    ],
)
def test_a_source_is_a_folder_with_a_checkpoint_of_which_only_its_files_are_copied(
    client: Any, checkpoint: str, tmp_path: Path, layout: Callable[[Path, Path], None], says: str
):
    source, name = tmp_path / "source", f"source-{layout.__name__}"
    layout(source, Path(checkpoint))
    (source / "secret").write_text("mine")
    client.create_registered_model(name)
    client.create_model_version(name, str(source))
    if says:
        with pytest.raises(InputError, match=says):
            registry.resolve(f"models:/{name}/1", str(tmp_path / "kept"))
        assert not (tmp_path / "kept").exists()
    else:
        kept = Path(registry.resolve(f"models:/{name}/1", str(tmp_path / "kept"))[0])
        assert sorted(one.name for one in kept.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"size_px": -1}', '{"size_px": "x"}', '{"memory": {"every": "x"}}', '{"memory": {"x": 1}}']
)
def test_settings_of_a_served_model_that_are_damaged_are_refused_in_one_line(
    checkpoint: str, tmp_path: Path, text: str
):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "served"))
    (folder / "serving.json").write_text(text)
    with pytest.raises(InputError, match=r"serving\.json") as refusal:
        served._load_pyfunc(str(folder))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "reference", ["models:/../secrets/1", "models:/a/b/1", "models:/..@champion", "models:/x", "models:/nobody/7"]
)
def test_a_reference_that_is_no_version_is_refused_in_one_line(store: str, reference: str, tmp_path: Path):
    with pytest.raises(InputError) as refusal:
        registry.resolve(reference, str(tmp_path / "inside"))
    assert reference in str(refusal.value) and "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_registers_a_version_that_can_be_evaluated_by_name(
    ray_cluster: None, client: Any, tmp_path: Path
):
    config = replace(preset(EvaluateConfig, "smoke"), max_frames=4, register=True)
    first = evaluate_model(replace(config, checkpoint=BUILTIN_TEACHER, out=str(tmp_path / "a")))  # scores above 0
    name = first.version.split("/")[0]
    number = aliases(client, name)["champion"]
    assert first.version.startswith(f"{name}/{number} (champion")
    again = evaluate_model(replace(config, checkpoint=f"models:/{name}@champion", out=str(tmp_path / "b")))
    assert again.metrics["val/j_and_f"] == first.metrics["val/j_and_f"]
    assert aliases(client, name)["champion"] == number
    (output,) = client.get_run(first.run_id).outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert {metric.key: metric.value for metric in model.metrics}["val/j_and_f"] == first.metrics["val/j_and_f"]
    pages = {item.path for item in client.list_artifacts(first.run_id)}
    assert {"sequences.csv", "j-over-time.png", "best-and-worst.jpg", "scores.csv"} <= pages
    assert any(name.startswith("worst-") and name.endswith(".mp4") for name in pages)


def test_versions_that_remember_the_last_frame_too_are_not_compared_with_those_that_do_not(
    ray_cluster: None, client: Any, checkpoint: str, tmp_path: Path
):
    config = replace(preset(EvaluateConfig, "smoke"), checkpoint=checkpoint, out=str(tmp_path), **QUICK)
    protocols = []
    for include_last in (False, True):
        memory = MemoryConfig(kind="infinite", every=2, include_last=include_last)
        name, number = evaluate_model(replace(config, memory=memory)).version.split()[0].split("/")
        protocols.append(json.loads(client.get_model_version(name, number).tags[champion.PROTOCOL]))
    without, with_last = protocols
    assert without["memory"] == {"kind": "infinite", "top_k": 20, "every": 2}, "as before there was a word for it"
    assert with_last["memory"] == without["memory"] | {"include_last": True}


def test_a_version_of_any_name_keeps_its_own_evaluation(
    ray_cluster: None, client: Any, checkpoint: str, tmp_path: Path
):
    evaluated("production", checkpoint, 0.1)
    evaluated("mobilevos-tiny", checkpoint, 0.2)
    before = {one.version: one.tags for one in client.search_model_versions("name = 'mobilevos-tiny'")}
    out = str(tmp_path / "out")
    config = replace(preset(EvaluateConfig, "smoke"), checkpoint="models:/production/1", out=out, **QUICK)
    found = evaluate_model(config)
    assert found.version.startswith("production/1 (champion")
    assert client.get_model_version("production", "1").tags[tracking.SCORE] == str(found.metrics[tracking.SCORE])
    assert {one.version: one.tags for one in client.search_model_versions("name = 'mobilevos-tiny'")} == before


@pytest.mark.parametrize("file", ["model.safetensors", "renamed.safetensors"])
def test_a_checkpoint_registered_by_its_weights_file_keeps_all_that_is_known_of_it(
    ray_cluster: None, client: Any, file: str, tmp_path: Path
):
    folder, kept = tmp_path / "student", str(tmp_path / "kept")
    known = {"role": "student", "size_px": 64, "commit": "abc", "config": {"seed": 5}}
    save_checkpoint(str(folder), build("mobilevos-tiny"), known)
    (folder / "model.safetensors").rename(folder / file)
    config = replace(preset(EvaluateConfig, "smoke"), checkpoint=str(folder / file), out=str(tmp_path / "out"), **QUICK)
    version = evaluate_model(config).version.split()[0]
    copy = Path(registry.resolve(f"models:/{version}", kept)[0])
    assert json.loads((copy / "model.json").read_text()) == json.loads((folder / "model.json").read_text())
    assert (copy / "model.safetensors").read_bytes() == (folder / file).read_bytes()


LOAD = """
import json, sys
import mlflow.pyfunc, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
given = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict({"frames": given["frames"], "mask": given["mask"]}))
import vos
print(json.dumps({"vos": vos.__file__, "rest": sorted({"ray", "pipelines", "jobs"} & set(sys.modules))}))
"""


def test_a_registered_model_segments_in_a_process_that_has_only_the_logged_code_as_it_does_here(
    store: str, client: Any, tmp_path: Path
):
    found = {"metrics": {"val/j_and_f": 0.9}, "data": "d", "protocol": PROTOCOL, "serving": {"size_px": 64}}
    with tracking.start_run("testing", "served", CONFIG) as run:
        version = run.register_evaluated("served-model", BUILTIN[BUILTIN_TEACHER], found)
    number = version.split("/")[1].split()[0]
    video = index_videos(preset(EvaluateConfig, "smoke").data, "val")[0]
    frames, mask = np.stack([video.frame(i) for i in range(5)]), video.mask(0)
    assert mask is not None
    np.savez(tmp_path / "video.npz", frames=frames, mask=mask)
    uri = client.get_model_version_download_uri("served-model", number)
    # -I: neither PYTHONPATH nor the working folder; the model's own copy of vos comes before an installed one.
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, uri, str(tmp_path / "video.npz"), str(tmp_path / "masks.npy")],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert Path(loaded["vos"]).is_relative_to(uri.removeprefix("file://")) and loaded["rest"] == []
    model, _ = load_checkpoint(BUILTIN[BUILTIN_TEACHER])
    policy = memory_policy(MemoryConfig(), infinite=True)
    ours = np.stack([labels for _, labels in segment_video(model, video, policy, size_px=64, max_frames=5)])
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), ours)
    assert not list(Path(uri.removeprefix("file://")).rglob("*.pkl"))


def test_registering_needs_a_network():
    with pytest.raises(InputError, match="--register"):
        EvaluateConfig(checkpoint="copy", register=True)
    assert EvaluateConfig(checkpoint=BUILTIN_TEACHER, register=True).register
